#include "fireq/io/command.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "fireq/base/error.h"
#include "fireq/io/file_descriptor.h"

namespace fireq {
namespace {

std::string ReadTail(const FileDescriptor& pipe) {
  constexpr size_t kKept = size_t{64} << 10;
  std::string output;
  char buffer[4096];
  for (;;) {
    const ssize_t got = ::read(pipe.get(), buffer, sizeof(buffer));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return output;
    output.append(buffer, static_cast<size_t>(got));
    if (output.size() > 2 * kKept) output.erase(0, output.size() - kKept);
  }
}

}  // namespace

CommandResult RunCommand(const std::vector<std::string>& arguments) {
  std::vector<char*> argv;
  argv.reserve(arguments.size() + 1);
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  int ends[2];
  FIREQ_CHECK(::pipe2(ends, O_CLOEXEC) == 0, kIo, "cannot make a pipe: ", std::strerror(errno));
  const FileDescriptor read_end(ends[0]);
  FileDescriptor write_end(ends[1]);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, write_end.get(), STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, write_end.get(), STDERR_FILENO);
  pid_t child = -1;
  const int error = ::posix_spawnp(&child, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  FIREQ_CHECK(error != ENOENT, kNotFound, "there is no program ", arguments[0]);
  FIREQ_CHECK(error == 0, kIo, "cannot start ", arguments[0], ": ", std::strerror(error));
  write_end.Close();
  CommandResult result;
  result.output = ReadTail(read_end);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return result;
}

}  // namespace fireq
