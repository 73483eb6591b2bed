# cmake --install: the program, the library (find_package(fireq), target fireq::fireq), its headers.
include(CMakePackageConfigHelpers)

get_property(layers GLOBAL PROPERTY FIREQ_LAYER_TARGETS)
set_target_properties(fireq_api PROPERTIES EXPORT_NAME fireq)
install(TARGETS ${layers} EXPORT fireqTargets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}/fireq)
install(TARGETS fireq RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
foreach(folder IN ITEMS api base formats)
  install(DIRECTORY "${PROJECT_SOURCE_DIR}/src/fireq/${folder}"
          DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/fireq FILES_MATCHING PATTERN "*.h")
endforeach()
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/fireq)
install(EXPORT fireqTargets NAMESPACE fireq:: DESTINATION ${package_dir})
configure_package_config_file(cmake/fireqConfig.cmake.in "${PROJECT_BINARY_DIR}/fireqConfig.cmake"
                              INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file("${PROJECT_BINARY_DIR}/fireqConfigVersion.cmake"
                                 COMPATIBILITY SameMinorVersion)
install(FILES "${PROJECT_BINARY_DIR}/fireqConfig.cmake"
              "${PROJECT_BINARY_DIR}/fireqConfigVersion.cmake" DESTINATION ${package_dir})
