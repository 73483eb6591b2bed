# cmake --install: the program with its man page and shell completion, the library
# (find_package(fireq), target fireq::fireq), its headers.
include(CMakePackageConfigHelpers)

get_property(libraries GLOBAL PROPERTY FIREQ_INSTALLED_TARGETS)
set_target_properties(fireq_api PROPERTIES EXPORT_NAME fireq)
install(TARGETS ${libraries} EXPORT fireqTargets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}/fireq)
install(TARGETS fireq RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(FILES "${PROJECT_SOURCE_DIR}/docs/man/fireq.1" DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
install(FILES "${PROJECT_SOURCE_DIR}/tools/completion/fireq.bash"
        DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions RENAME fireq)
# The other headers of api/ are the library's own.
install(FILES "${PROJECT_SOURCE_DIR}/src/fireq/api/fireq.h"
        DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/fireq/api)
foreach(folder IN ITEMS base formats)
  install(DIRECTORY "${PROJECT_SOURCE_DIR}/src/fireq/${folder}"
          DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/fireq FILES_MATCHING PATTERN "*.h"
          PATTERN "*_vector.h" EXCLUDE)
endforeach()
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/fireq)
install(EXPORT fireqTargets NAMESPACE fireq:: DESTINATION ${package_dir})
configure_package_config_file(cmake/fireqConfig.cmake.in "${PROJECT_BINARY_DIR}/fireqConfig.cmake"
                              INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file("${PROJECT_BINARY_DIR}/fireqConfigVersion.cmake"
                                 COMPATIBILITY SameMinorVersion)
install(FILES "${PROJECT_BINARY_DIR}/fireqConfig.cmake"
              "${PROJECT_BINARY_DIR}/fireqConfigVersion.cmake" DESTINATION ${package_dir})
