// A directory that appears under its name complete or not at all.
#pragma once

#include <filesystem>
#include <functional>

#include "fireq/io/file_descriptor.h"

namespace fireq {

// Files are written into staging(), which is NAME.partial beside NAME; Commit() renames it to NAME
// and only then removes what was there before. Destroyed without Commit, it removes the staging
// directory; a killed process leaves NAME.partial, which the next run for NAME clears away.
// A lock in the staging directory keeps two runs for one NAME apart. Not synchronised.
class AtomicDirectory {
 public:
  // `may_replace` decides about an existing non-empty directory at `target`.
  // Errors: kNotFound if the parent does not exist; kInvalidArgument if `target` is a file or a
  // directory that may not be replaced, or NAME.partial is not ours; kIo if another process is
  // writing NAME.partial, or on a failing system call.
  AtomicDirectory(const std::filesystem::path& target,
                  const std::function<bool(const std::filesystem::path&)>& may_replace);
  ~AtomicDirectory();
  AtomicDirectory(const AtomicDirectory&) = delete;
  AtomicDirectory& operator=(const AtomicDirectory&) = delete;

  const std::filesystem::path& target() const { return target_; }
  const std::filesystem::path& staging() const { return staging_; }
  void Commit();

 private:
  void ClaimStaging();
  void ReplaceTarget();

  std::filesystem::path target_;
  std::filesystem::path staging_;
  FileDescriptor lock_;
  bool claimed_ = false;  // staging_ is ours to remove
};

}  // namespace fireq
