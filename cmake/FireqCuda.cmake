# CUDA for sm_90a, and fireq_kernel(): one folder of src/fireq/backends/sm90.
#
# With FIREQ_CUDA off only the pure host parts of the kernel folders are built (plans, layouts), so
# that g++ alone can test them.
if(FIREQ_CUDA)
  # CMake 3.25 knows CUDA dialects up to 17 and no "90a": both are said by hand.
  set(CMAKE_CUDA_ARCHITECTURES OFF)
  # The launcher turns what ptxas only mentions (serialised wgmma, ignored setmaxnreg) into errors.
  set(CMAKE_CUDA_COMPILER_LAUNCHER
      "${PROJECT_SOURCE_DIR}/cmake/strict_nvcc.sh" ${FIREQ_CCACHE})
  enable_language(CUDA)
  if(NOT DEFINED CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
    set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
  endif()
  find_package(CUDAToolkit 12.8 REQUIRED)
  # Installed programs find cuBLASLt where the build found it.
  set(CMAKE_INSTALL_RPATH_USE_LINK_PATH ON)
  add_library(fireq_cuda_flags INTERFACE)
  target_compile_options(fireq_cuda_flags INTERFACE
    "$<$<COMPILE_LANGUAGE:CUDA>:SHELL:-gencode arch=compute_90a,code=sm_90a>"
    "$<$<COMPILE_LANGUAGE:CUDA>:SHELL:-Xptxas -warn-spills,-warn-lmem-usage -Werror all-warnings>"
    "$<$<COMPILE_LANGUAGE:CUDA>:SHELL:--expt-relaxed-constexpr -lineinfo -Xcompiler -Wall>"
    # A device assert serialises wgmma, whatever the build type.
    $<$<COMPILE_LANGUAGE:CUDA>:-DNDEBUG>)
endif()

# fireq_sm90_library(<target> SOURCES ... [PUBLIC target ...] [PRIVATE target ...]): a static library
# of .cpp and .cu files; CMake >= 3.25 links it into programs that know nothing of CUDA.
function(fireq_sm90_library target)
  cmake_parse_arguments(arg "" "" "SOURCES;PUBLIC;PRIVATE" ${ARGN})
  add_library(${target} STATIC ${arg_SOURCES})
  target_include_directories(${target} PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/src>)
  target_link_libraries(${target} PUBLIC ${arg_PUBLIC}
    PRIVATE ${arg_PRIVATE} $<BUILD_INTERFACE:fireq_flags> $<BUILD_INTERFACE:fireq_cuda_flags>)
  fireq_installed(${target})
endfunction()

# fireq_plan(<name> SOURCES ... [DEPENDS target ...]): library fireq_<name>_plan of what the calling
# folder's code computes on the host alone, without CUDA, too. Test <name>_plan_test: the *_test.cpp of
# tests/<dir> that need no device.
function(fireq_plan name)
  cmake_parse_arguments(arg "" "" "SOURCES;DEPENDS" ${ARGN})
  set(target fireq_${name}_plan)
  add_library(${target} STATIC ${arg_SOURCES})
  target_include_directories(${target} PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/src>)
  target_link_libraries(${target} PUBLIC ${arg_DEPENDS} PRIVATE $<BUILD_INTERFACE:fireq_flags>)
  if(FIREQ_CUDA)
    fireq_installed(${target})
  endif()
  file(RELATIVE_PATH dir "${PROJECT_SOURCE_DIR}/src/fireq" "${CMAKE_CURRENT_SOURCE_DIR}")
  file(GLOB tests CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/tests/${dir}/*_test.cpp")
  list(FILTER tests EXCLUDE REGEX "_gpu_test")
  if(tests AND FIREQ_TESTS)
    fireq_test(${name}_plan_test SOURCES ${tests} LINK ${target})
  endif()
endfunction()

# fireq_kernel(NAME <name> [HOST plan.cpp ...] [DEPENDS target ...])
#
# fireq_plan() of the HOST sources, always; with FIREQ_CUDA also library fireq_<name> of every other .cpp
# and every .cu of the folder, and test <name>_gpu_test of tests/<dir>: *_gpu_test.{cpp,cu}, which skip
# without a device.
function(fireq_kernel)
  cmake_parse_arguments(arg "" "NAME" "HOST;DEPENDS" ${ARGN})
  file(RELATIVE_PATH dir "${PROJECT_SOURCE_DIR}/src/fireq" "${CMAKE_CURRENT_SOURCE_DIR}")
  set(target fireq_${arg_NAME})
  set(links fireq_base fireq_formats fireq_tensor)
  file(GLOB gpu_tests CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/tests/${dir}/*_gpu_test.c*")
  if(arg_HOST)
    fireq_plan(${arg_NAME} SOURCES ${arg_HOST} DEPENDS ${links})
    list(APPEND links ${target}_plan)
  endif()
  if(NOT FIREQ_CUDA)
    return()
  endif()
  file(GLOB sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/*.cpp"
                                      "${CMAKE_CURRENT_SOURCE_DIR}/*.cu")
  foreach(host IN LISTS arg_HOST)
    list(REMOVE_ITEM sources "${CMAKE_CURRENT_SOURCE_DIR}/${host}")
  endforeach()
  if(NOT sources)
    return()
  endif()
  fireq_sm90_library(${target} SOURCES ${sources}
                     PUBLIC ${links} ${arg_DEPENDS} CUDA::cudart_static)
  if(gpu_tests AND FIREQ_TESTS)
    fireq_test(${arg_NAME}_gpu_test SOURCES ${gpu_tests} LINK ${target} fireq_cuda_flags)
  endif()
endfunction()
