// An open file that closes itself, and the two questions every reader asks first.
#pragma once

#include <cstdint>
#include <filesystem>
#include <utility>

namespace fireq {

class FileDescriptor {
 public:
  FileDescriptor() = default;
  explicit FileDescriptor(int fd) : fd_(fd) {}
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~FileDescriptor() { Close(); }

  int get() const { return fd_; }
  bool is_open() const { return fd_ >= 0; }
  // Closes now; returns false (errno set) if the system reports a late write error.
  bool Close();

 private:
  int fd_ = -1;
};

// Errors: kNotFound or kIo, naming the path and the system's reason.
FileDescriptor OpenForReading(const std::filesystem::path& path);

// Size in bytes. Errors: kIo if `file` is not a regular file (a directory, a pipe, a device).
int64_t RegularFileSize(const FileDescriptor& file, const std::filesystem::path& path);

}  // namespace fireq
