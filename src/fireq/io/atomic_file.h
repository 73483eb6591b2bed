// A file that appears under its name complete or not at all.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string_view>

#include "fireq/io/file_descriptor.h"

namespace fireq {

// Writes to a temporary file in the same directory; Commit() makes it durable and gives it its
// name. Destroyed without Commit, it leaves nothing. Every failure throws kIo naming the path, the
// bytes and the system's reason (a full disk above all). Not synchronised.
class AtomicFile {
 public:
  // Replaces `path` at Commit if it exists. Errors: kNotFound if the directory does not exist.
  explicit AtomicFile(std::filesystem::path path);
  ~AtomicFile();
  AtomicFile(AtomicFile&& other) noexcept;
  AtomicFile& operator=(AtomicFile&&) = delete;

  // Takes `bytes` of disk space now, so that a long run learns at its start that the disk is too
  // small. Does nothing where the file system cannot reserve.
  void Reserve(int64_t bytes);
  void Append(const void* data, int64_t bytes);
  // Does not move where Append goes on.
  void WriteAt(int64_t offset, const void* data, int64_t bytes);
  void Commit();

 private:
  [[noreturn]] void Fail(std::string_view action, int64_t bytes, int reason) const;

  std::filesystem::path path_;
  std::filesystem::path temporary_;  // empty once committed or moved from
  FileDescriptor file_;
  int64_t end_ = 0;
};

// All of `text` as the file `path`, atomically.
void WriteTextFile(const std::filesystem::path& path, std::string_view text);

// Flushes a directory's entries to the disk; kIo on failure.
void SyncDirectory(const std::filesystem::path& directory);

}  // namespace fireq
