// What the fuzz targets share.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>

namespace fireq {

// A file in memory with these bytes, for parsers that take a path.
class MemoryFile {
 public:
  MemoryFile(const uint8_t* data, size_t size) : fd_(::memfd_create("fuzz", MFD_CLOEXEC)) {
    if (fd_ < 0 || ::write(fd_, data, size) != static_cast<ssize_t>(size)) std::abort();
  }
  ~MemoryFile() { ::close(fd_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  std::filesystem::path path() const { return "/proc/self/fd/" + std::to_string(fd_); }

 private:
  int fd_;
};

// Reads every byte, so that a sanitizer sees one that is not there.
inline void Touch(const void* data, int64_t size_bytes) {
  const volatile uint8_t* bytes = static_cast<const uint8_t*>(data);
  for (int64_t i = 0; i < size_bytes; ++i) static_cast<void>(bytes[i]);
}

// A property of a parser that must hold for every input.
inline void Require(bool condition) {
  if (!condition) std::abort();
}

}  // namespace fireq
