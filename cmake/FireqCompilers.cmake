# One place for language levels, warnings and sanitizers.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()

find_program(FIREQ_CCACHE ccache)
if(FIREQ_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER "${FIREQ_CCACHE}")
  set(CMAKE_CUDA_COMPILER_LAUNCHER "${FIREQ_CCACHE}")
endif()

add_library(fireq_flags INTERFACE)
target_compile_features(fireq_flags INTERFACE cxx_std_20)
target_compile_options(fireq_flags INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wshadow -Wnon-virtual-dtor -Wno-missing-field-initializers -Werror>
  # g++ 12 reports overlaps inside std::string concatenation that do not exist (GCC bug 105329).
  $<$<COMPILE_LANG_AND_ID:CXX,GNU>:-Wno-restrict>
  # The served arithmetic says where a product is rounded; the compiler may not fuse on its own.
  $<$<COMPILE_LANGUAGE:CXX>:-ffp-contract=off>)
if(FIREQ_SANITIZE)
  add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${FIREQ_SANITIZE}>
                      $<$<COMPILE_LANGUAGE:CXX>:-fno-omit-frame-pointer>
                      $<$<COMPILE_LANGUAGE:CXX>:-fno-sanitize-recover=all>)
  # GCC: -fsanitize "may produce false positives" of this warning (seen in <regex>).
  target_compile_options(fireq_flags INTERFACE
    $<$<COMPILE_LANG_AND_ID:CXX,GNU>:-Wno-maybe-uninitialized>)
  add_link_options(-fsanitize=${FIREQ_SANITIZE})
endif()
