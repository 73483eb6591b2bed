// main of the small programs that Python tests run: an error's words and its exit code.
#pragma once

#include <iostream>

#include "fireq/base/error.h"

namespace fireq::test {

inline int ToolMain(void (*run)(int argc, char** argv), int argc, char** argv) {
  try {
    run(argc, argv);
  } catch (const Error& e) {
    std::cerr << e.what() << "\n";
    return ExitCode(e.code());
  }
  return 0;
}

}  // namespace fireq::test
