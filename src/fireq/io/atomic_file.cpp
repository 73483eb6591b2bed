#include "fireq/io/atomic_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "fireq/base/error.h"

namespace fireq {
namespace {

std::filesystem::path DirectoryOf(const std::filesystem::path& path) {
  return path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
}

}  // namespace

AtomicFile::AtomicFile(std::filesystem::path path) : path_(std::move(path)) {
  const std::filesystem::path directory = DirectoryOf(path_);
  FIREQ_CHECK(std::filesystem::is_directory(directory), kNotFound, path_.string(),
              ": there is no directory ", directory.string());
  // Counts on past files that killed runs have left.
  for (int i = 0; !file_.is_open(); ++i) {
    temporary_ = directory / StrCat(".", path_.filename().string(), ".", ::getpid(), "-", i);
    file_ = FileDescriptor(::open(temporary_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
    if (!file_.is_open() && errno != EEXIST) {
      temporary_.clear();
      Fail("create", 0, errno);
    }
  }
}

AtomicFile::AtomicFile(AtomicFile&& other) noexcept
    : path_(std::move(other.path_)),
      temporary_(std::exchange(other.temporary_, {})),
      file_(std::move(other.file_)),
      end_(other.end_) {}

AtomicFile::~AtomicFile() {
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFile::Fail(std::string_view action, int64_t bytes, int reason) const {
  Throw(ErrorCode::kIo, StrCat(path_.string(), ": cannot ", action,
                               bytes > 0 ? StrCat(" ", bytes, " bytes") : std::string(), ": ",
                               std::strerror(reason)));
}

void AtomicFile::Reserve(int64_t bytes) {
  if (bytes <= 0 || ::fallocate(file_.get(), 0, 0, bytes) == 0) return;
  if (errno == ENOSPC || errno == EFBIG || errno == EDQUOT) Fail("reserve", bytes, errno);
}

void AtomicFile::Append(const void* data, int64_t bytes) {
  WriteAt(end_, data, bytes);
  end_ += bytes;
}

void AtomicFile::WriteAt(int64_t offset, const void* data, int64_t bytes) {
  const char* next = static_cast<const char*>(data);
  int64_t left = bytes;
  while (left > 0) {
    const ssize_t done = ::pwrite(file_.get(), next, static_cast<size_t>(left), offset);
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) Fail("write", bytes, done < 0 ? errno : EIO);
    next += done;
    offset += done;
    left -= done;
  }
}

void AtomicFile::Commit() {
  if (::fsync(file_.get()) != 0) Fail("flush to disk", 0, errno);
  if (!file_.Close()) Fail("close", 0, errno);
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) Fail("rename into place", 0, errno);
  temporary_.clear();
  SyncDirectory(DirectoryOf(path_));
}

void WriteTextFile(const std::filesystem::path& path, std::string_view text) {
  AtomicFile file(path);
  file.Append(text.data(), static_cast<int64_t>(text.size()));
  file.Commit();
}

void SyncDirectory(const std::filesystem::path& directory) {
  const FileDescriptor handle(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  // EINVAL: a file system whose directories need no flushing.
  const bool ok = handle.is_open() && (::fsync(handle.get()) == 0 || errno == EINVAL);
  FIREQ_CHECK(ok, kIo, directory.string(), ": cannot flush to disk: ", std::strerror(errno));
}

}  // namespace fireq
