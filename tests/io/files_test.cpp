#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>

#include "fireq/base/error.h"
#include "fireq/io/atomic_directory.h"
#include "fireq/io/atomic_file.h"
#include "fireq/io/mapped_file.h"
#include "fireq/io/text_file.h"
#include "tests/io/io_testing.h"

namespace fireq {
namespace {

using ::testing::HasSubstr;
namespace fs = std::filesystem;

bool Always(const fs::path&) { return true; }
bool Never(const fs::path&) { return false; }

TEST(MappedFile, BoundsAreChecked) {
  const TemporaryDirectory dir;
  WriteBytes(dir / "f", "hello");
  const auto file = MappedFile::Open(dir / "f");
  EXPECT_EQ(file->Bytes(1, 4, "tail")[0], 'e');
  EXPECT_EQ(file->Bytes(5, 0, "nothing").size(), 0u);
  EXPECT_THAT(ErrorOf([&] { file->Bytes(2, 4, "tail"); }, ErrorCode::kCorrupt),
              HasSubstr("f: tail: 4 bytes at 2 are beyond the file's 5"));
  EXPECT_THROW(file->Bytes(-1, 1, "x"), Error);
  EXPECT_THROW(file->Bytes(1, INT64_MAX, "x"), Error);
  EXPECT_THROW(file->Bytes(INT64_MAX, INT64_MAX, "x"), Error);
  WriteBytes(dir / "empty", "");
  EXPECT_EQ(MappedFile::Open(dir / "empty")->size(), 0);
  EXPECT_THAT(ErrorOf([&] { MappedFile::Open(dir / "none"); }, ErrorCode::kNotFound),
              HasSubstr("none: no such file"));
  EXPECT_THROW(MappedFile::Open(dir.path()), Error);
}

TEST(AtomicFile, AppearsOnlyAtCommit) {
  const TemporaryDirectory dir;
  {
    AtomicFile file(dir / "out");
    file.Append("abc", 3);
    EXPECT_FALSE(fs::exists(dir / "out"));
  }
  EXPECT_TRUE(fs::is_empty(dir.path()));
  WriteTextFile(dir / "out", "one");
  AtomicFile file(dir / "out");
  file.Reserve(100);
  file.Append("tw", 2);
  file.WriteAt(2, "o!", 2);
  EXPECT_EQ(ReadTextFile(dir / "out"), "one");
  file.Commit();
  EXPECT_EQ(ReadTextFile(dir / "out").substr(0, 4), "two!");
  EXPECT_THAT(ErrorOf([&] { AtomicFile(dir / "no/such/f"); }, ErrorCode::kNotFound),
              HasSubstr("there is no directory"));
}

// A limit on the file size gives the errors of a full disk without filling one.
TEST(AtomicFile, FullDiskNamesPathAndBytesAndLeavesNothing) {
  const TemporaryDirectory dir;
  const FileSizeLimit limit(4096);
  const std::string big(10000, 'x');
  EXPECT_THAT(ErrorOf([&] { WriteTextFile(dir / "out", big); }, ErrorCode::kIo),
              AllOf(HasSubstr("out: cannot write 10000 bytes"), HasSubstr("File too large")));
  EXPECT_THAT(ErrorOf([&] { AtomicFile(dir / "out").Reserve(10000); }, ErrorCode::kIo),
              HasSubstr("out: cannot reserve 10000 bytes"));
  EXPECT_TRUE(fs::is_empty(dir.path()));
}

TEST(AtomicDirectory, AppearsOnlyAtCommit) {
  const TemporaryDirectory dir;
  {
    AtomicDirectory out(dir / "out/", Never);
    EXPECT_EQ(out.target(), fs::canonical(dir.path()) / "out");
    WriteTextFile(out.staging() / "a", "1");
    EXPECT_FALSE(fs::exists(dir / "out"));
  }
  EXPECT_TRUE(fs::is_empty(dir.path()));
  AtomicDirectory out(dir / "out", Never);
  WriteTextFile(out.staging() / "a", "1");
  out.Commit();
  EXPECT_EQ(FileNames(dir / "out"), std::vector<std::string>{"a"});
  EXPECT_EQ(FileNames(dir.path()), std::vector<std::string>{"out"});
}

TEST(AtomicDirectory, ReplacesOnlyWhatItMayAndOnlyAtTheEnd) {
  const TemporaryDirectory dir;
  fs::create_directory(dir / "out");
  { AtomicDirectory empty_is_fine(dir / "out", Never); }
  WriteBytes(dir / "out/precious", "p");
  EXPECT_THAT(ErrorOf([&] { AtomicDirectory(dir / "out", Never); }, ErrorCode::kInvalidArgument),
              HasSubstr("not empty and holds no FireQ checkpoint"));
  EXPECT_FALSE(fs::exists(dir / "out.partial"));
  {
    AtomicDirectory out(dir / "out", Always);
    WriteTextFile(out.staging() / "new", "n");
  }
  EXPECT_EQ(FileNames(dir / "out"), std::vector<std::string>{"precious"});
  AtomicDirectory out(dir / "out", Always);
  WriteTextFile(out.staging() / "new", "n");
  out.Commit();
  EXPECT_EQ(FileNames(dir / "out"), std::vector<std::string>{"new"});
  EXPECT_EQ(FileNames(dir.path()), std::vector<std::string>{"out"});
  WriteBytes(dir / "file", "x");
  EXPECT_THAT(ErrorOf([&] { AtomicDirectory(dir / "file", Always); }, ErrorCode::kInvalidArgument),
              HasSubstr("exists and is not a directory"));
  EXPECT_THROW(AtomicDirectory(dir / "none/out", Always), Error);
  EXPECT_THROW(AtomicDirectory("/", Always), Error);
  EXPECT_THROW(AtomicDirectory("", Always), Error);
}

TEST(AtomicDirectory, LeavesAStrangersPartialDirectoryAlone) {
  const TemporaryDirectory dir;
  fs::create_directory(dir / "out.partial");
  WriteBytes(dir / "out.partial/theirs", "t");
  EXPECT_THAT(ErrorOf([&] { AtomicDirectory(dir / "out", Never); }, ErrorCode::kInvalidArgument),
              HasSubstr("out.partial: exists and was not made by FireQ"));
  EXPECT_TRUE(fs::exists(dir / "out.partial/theirs"));
}

TEST(AtomicDirectory, TwoProcessesDoNotShareOneTarget) {
  const TemporaryDirectory dir;
  const AtomicDirectory out(dir / "out", Never);
  EXPECT_THAT(ErrorOf([&] { AtomicDirectory(dir / "out", Never); }, ErrorCode::kIo),
              HasSubstr("out.partial: another process is writing it"));
  EXPECT_TRUE(fs::exists(out.staging()));
}

TEST(AtomicDirectory, AKilledRunLeavesNothingAtTheTargetAndTheNextClearsUp) {
  const TemporaryDirectory dir;
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    AtomicDirectory out(dir / "out", Never);
    WriteTextFile(out.staging() / "half", "h");
    raise(SIGKILL);
  }
  int status = 0;
  waitpid(child, &status, 0);
  ASSERT_TRUE(WIFSIGNALED(status));
  EXPECT_FALSE(fs::exists(dir / "out"));
  EXPECT_TRUE(fs::exists(dir / "out.partial/half"));
  AtomicDirectory out(dir / "out", Never);
  EXPECT_FALSE(fs::exists(out.staging() / "half"));
  out.Commit();
  EXPECT_EQ(FileNames(dir.path()), std::vector<std::string>{"out"});
}

}  // namespace
}  // namespace fireq
