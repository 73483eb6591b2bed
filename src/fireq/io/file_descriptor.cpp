#include "fireq/io/file_descriptor.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "fireq/base/error.h"

namespace fireq {

bool FileDescriptor::Close() {
  if (fd_ < 0) return true;
  return ::close(std::exchange(fd_, -1)) == 0;
}

FileDescriptor OpenForReading(const std::filesystem::path& path) {
  // O_NONBLOCK: opening a pipe that nobody writes must not hang; it means nothing for files.
  FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!file.is_open()) {
    const int reason = errno;
    FIREQ_CHECK(reason != ENOENT && reason != ENOTDIR, kNotFound, path.string(), ": no such file");
    FIREQ_CHECK(false, kIo, path.string(), ": cannot open: ", std::strerror(reason));
  }
  return file;
}

int64_t RegularFileSize(const FileDescriptor& file, const std::filesystem::path& path) {
  struct stat status = {};
  FIREQ_CHECK(::fstat(file.get(), &status) == 0, kIo, path.string(),
              ": cannot stat: ", std::strerror(errno));
  FIREQ_CHECK(S_ISREG(status.st_mode), kIo, path.string(), ": not a regular file");
  return status.st_size;
}

}  // namespace fireq
