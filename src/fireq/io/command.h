// Runs another program, without a shell.
#pragma once

#include <string>
#include <vector>

namespace fireq {

struct CommandResult {
  int exit_code = 0;   // 128 + signal if it was killed
  std::string output;  // stdout and stderr together, at most the last 64 KiB
};

// Runs arguments[0], looked up in PATH, with no standard input, and waits for it.
// Errors: kNotFound if there is no such program; kIo if it cannot be started.
CommandResult RunCommand(const std::vector<std::string>& arguments);

}  // namespace fireq
