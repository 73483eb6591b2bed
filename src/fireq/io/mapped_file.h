// A file mapped read-only into memory, shared by every tensor that aliases it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string_view>

namespace fireq {

// Thread-safe (immutable). A file that another process shortens while it is mapped ends the process
// with SIGBUS, as with every mmap; files are checked against their size only when they are opened.
class MappedFile {
 public:
  // Errors: kNotFound, kIo (not a regular file, cannot map).
  static std::shared_ptr<const MappedFile> Open(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::filesystem::path& path() const { return path_; }
  int64_t size() const { return size_; }
  const uint8_t* data() const { return data_; }
  // Bytes [offset, offset + count). Throws kCorrupt, naming the path and `what`, if they are not
  // all inside the file.
  std::span<const uint8_t> Bytes(int64_t offset, int64_t count, std::string_view what) const;

 private:
  MappedFile(std::filesystem::path path, const uint8_t* data, int64_t size);

  std::filesystem::path path_;
  const uint8_t* data_;
  int64_t size_;
};

}  // namespace fireq
