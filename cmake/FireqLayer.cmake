# fireq_installed(<target>): a part of the installed library (FireqInstall.cmake).
function(fireq_installed target)
  set_property(GLOBAL APPEND PROPERTY FIREQ_INSTALLED_TARGETS ${target})
endfunction()

# fireq_layer(NAME <dir> [DEPENDS layer...] [LINK lib...] [TEST_DEPENDS layer...])
#
# One static library fireq_<name> of all .cpp files of the calling folder (not of sub-folders), and,
# where tests/<dir> exists, one test program <name>_test of its *_test.cpp files.
function(fireq_layer)
  cmake_parse_arguments(arg "" "NAME" "DEPENDS;LINK;TEST_DEPENDS" ${ARGN})
  file(RELATIVE_PATH dir "${PROJECT_SOURCE_DIR}/src/fireq" "${CMAKE_CURRENT_SOURCE_DIR}")
  file(GLOB sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/*.cpp")
  set(target fireq_${arg_NAME})
  set(depends ${arg_DEPENDS})
  list(TRANSFORM depends PREPEND fireq_)
  if(sources)
    add_library(${target} STATIC ${sources})
    # Files that Highway includes once a target cannot share a translation unit (unity builds).
    foreach(source IN LISTS sources)
      file(STRINGS "${source}" once_a_target REGEX "foreach_target" LIMIT_COUNT 1)
      if(once_a_target)
        set_source_files_properties("${source}" PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
      endif()
    endforeach()
    set(scope PUBLIC)
    target_link_libraries(${target} PRIVATE $<BUILD_INTERFACE:fireq_flags>)
  else()
    add_library(${target} INTERFACE)
    set(scope INTERFACE)
  endif()
  target_include_directories(${target} ${scope}
    $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/src> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
  # fireq_flags says so for the build; headers need it of whoever includes them, too.
  target_compile_features(${target} ${scope} cxx_std_20)
  target_link_libraries(${target} ${scope} ${depends} ${arg_LINK})
  fireq_installed(${target})
  set_property(GLOBAL APPEND PROPERTY FIREQ_LAYER_DIRS "${arg_NAME}|${dir}")
  set_property(GLOBAL PROPERTY FIREQ_TEST_DEPENDS_${arg_NAME} ${arg_TEST_DEPENDS})
endfunction()

# Test programs are made after all layers exist; called once, from tests/CMakeLists.txt.
function(fireq_layer_tests)
  get_property(layers GLOBAL PROPERTY FIREQ_LAYER_DIRS)
  foreach(entry IN LISTS layers)
    string(REPLACE "|" ";" pair "${entry}")
    list(GET pair 0 name)
    list(GET pair 1 dir)
    file(GLOB tests CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/tests/${dir}/*_test.cpp")
    if(tests)
      get_property(depends GLOBAL PROPERTY FIREQ_TEST_DEPENDS_${name})
      list(TRANSFORM depends PREPEND fireq_)
      fireq_test(${name}_test SOURCES ${tests} LINK fireq_${name} ${depends})
    endif()
  endforeach()
endfunction()

# fireq_test(NAME SOURCES ... LINK ...): a GoogleTest program whose cases ctest knows one by one.
function(fireq_test name)
  cmake_parse_arguments(arg "" "" "SOURCES;LINK" ${ARGN})
  add_executable(${name} ${arg_SOURCES})
  set_target_properties(${name} PROPERTIES UNITY_BUILD OFF)  # every test file names its helpers alike
  target_link_libraries(${name} PRIVATE ${arg_LINK} fireq_test_support fireq_flags GTest::gtest
                                        GTest::gmock GTest::gtest_main)
  target_include_directories(${name} PRIVATE "${PROJECT_SOURCE_DIR}")
  # Labelled with the program's name: test.sh chooses by it.
  gtest_discover_tests(${name} DISCOVERY_TIMEOUT 60 PROPERTIES TIMEOUT 600 LABELS ${name})
endfunction()
