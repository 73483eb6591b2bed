#include "fireq/io/mapped_file.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "fireq/base/error.h"
#include "fireq/io/file_descriptor.h"

namespace fireq {

MappedFile::MappedFile(std::filesystem::path path, const uint8_t* data, int64_t size)
    : path_(std::move(path)), data_(data), size_(size) {}

MappedFile::~MappedFile() {
  if (size_ > 0) ::munmap(const_cast<uint8_t*>(data_), static_cast<size_t>(size_));
}

std::shared_ptr<const MappedFile> MappedFile::Open(const std::filesystem::path& path) {
  const FileDescriptor file = OpenForReading(path);
  const int64_t size = RegularFileSize(file, path);
  void* data = nullptr;  // an empty file cannot be mapped and need not be
  if (size > 0) {
    data = ::mmap(nullptr, static_cast<size_t>(size), PROT_READ, MAP_PRIVATE, file.get(), 0);
    FIREQ_CHECK(data != MAP_FAILED, kIo, path.string(), ": cannot map ", size,
                " bytes: ", std::strerror(errno));
  }
  return std::shared_ptr<const MappedFile>(
      new MappedFile(path, static_cast<const uint8_t*>(data), size));
}

std::span<const uint8_t> MappedFile::Bytes(int64_t offset, int64_t count,
                                           std::string_view what) const {
  FIREQ_CHECK(offset >= 0 && count >= 0 && offset <= size_ && count <= size_ - offset, kCorrupt,
              path_.string(), ": ", what, ": ", count, " bytes at ", offset,
              " are beyond the file's ", size_);
  return {data_ + offset, static_cast<size_t>(count)};
}

}  // namespace fireq
