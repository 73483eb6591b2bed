#include "fireq/io/atomic_directory.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <system_error>

#include "fireq/base/error.h"
#include "fireq/io/atomic_file.h"

namespace fireq {
namespace {

namespace fs = std::filesystem;

// Marks a staging directory as ours and carries the lock of the process that writes it.
constexpr const char* kLockName = ".fireq-partial";

bool IsNonEmptyDirectory(const fs::path& path) {
  std::error_code ignored;
  return fs::is_directory(path, ignored) && !fs::is_empty(path, ignored);
}

// Removes `staging` so that the mark goes last: a kill in between leaves what the next run clears.
void RemoveStaging(const fs::path& staging) {
  std::error_code ignored;
  for (const fs::directory_entry& entry : fs::directory_iterator(staging, ignored)) {
    if (entry.path().filename() != kLockName) fs::remove_all(entry.path(), ignored);
  }
  fs::remove_all(staging, ignored);
}

void CheckSystem(bool ok, const fs::path& path, const char* action) {
  FIREQ_CHECK(ok, kIo, path.string(), ": cannot ", action, ": ", std::strerror(errno));
}

}  // namespace

AtomicDirectory::AtomicDirectory(const fs::path& target,
                                 const std::function<bool(const fs::path&)>& may_replace) {
  FIREQ_CHECK(!target.empty(), kInvalidArgument, "the output directory's name is empty");
  // weakly_canonical leaves a relative path relative where its first component does not exist.
  target_ = fs::weakly_canonical(fs::absolute(target));
  if (!target_.has_filename()) target_ = target_.parent_path();
  FIREQ_CHECK(target_.has_relative_path(), kInvalidArgument, target.string(),
              ": cannot be an output directory");
  FIREQ_CHECK(fs::is_directory(target_.parent_path()), kNotFound, target.string(),
              ": there is no directory ", target_.parent_path().string());
  FIREQ_CHECK(!fs::exists(target_) || fs::is_directory(target_), kInvalidArgument, target.string(),
              ": exists and is not a directory");
  FIREQ_CHECK(!IsNonEmptyDirectory(target_) || may_replace(target_), kInvalidArgument,
              target.string(),
              ": exists, is not empty and holds no FireQ checkpoint; it is left as it is");
  staging_ = target_;
  staging_ += ".partial";
  ClaimStaging();
}

void AtomicDirectory::ClaimStaging() {
  const fs::path lock_path = staging_ / kLockName;
  FIREQ_CHECK(!fs::exists(staging_) || fs::exists(lock_path) ||
                  (fs::is_directory(staging_) && fs::is_empty(staging_)),
              kInvalidArgument, staging_.string(),
              ": exists and was not made by FireQ; remove it to go on");
  std::error_code error;
  fs::create_directory(staging_, error);
  FIREQ_CHECK(!error, kIo, staging_.string(), ": cannot create: ", error.message());
  lock_ = FileDescriptor(::open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666));
  CheckSystem(lock_.is_open(), lock_path, "create");
  FIREQ_CHECK(::flock(lock_.get(), LOCK_EX | LOCK_NB) == 0, kIo, staging_.string(),
              ": another process is writing it");
  claimed_ = true;
  for (const fs::directory_entry& stale : fs::directory_iterator(staging_)) {
    if (stale.path() != lock_path) fs::remove_all(stale.path());
  }
}

AtomicDirectory::~AtomicDirectory() {
  if (claimed_) RemoveStaging(staging_);
}

void AtomicDirectory::Commit() {
  const fs::path lock_path = staging_ / kLockName;
  CheckSystem(::unlink(lock_path.c_str()) == 0, lock_path, "remove");
  SyncDirectory(staging_);
  if (fs::exists(target_)) {
    ReplaceTarget();
  } else {
    CheckSystem(::rename(staging_.c_str(), target_.c_str()) == 0, target_, "rename into place");
  }
  claimed_ = false;
  SyncDirectory(target_.parent_path());
}

void AtomicDirectory::ReplaceTarget() {
  // One step for whoever looks: either the old directory or the new one is at target_.
  if (::renameat2(AT_FDCWD, staging_.c_str(), AT_FDCWD, target_.c_str(), RENAME_EXCHANGE) != 0) {
    // A file system that cannot swap: for an instant there is nothing at target_.
    fs::path old = staging_;
    old += ".old";
    CheckSystem(::rename(target_.c_str(), old.c_str()) == 0, target_, "move away");
    CheckSystem(::rename(staging_.c_str(), target_.c_str()) == 0, target_, "rename into place");
    CheckSystem(::rename(old.c_str(), staging_.c_str()) == 0, staging_, "rename into place");
  }
  // staging_ now holds the old content; marked, so that a kill here leaves what a run may clear.
  const FileDescriptor mark(
      ::open((staging_ / kLockName).c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666));
  RemoveStaging(staging_);
}

}  // namespace fireq
