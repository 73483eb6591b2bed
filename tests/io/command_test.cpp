#include "fireq/io/command.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "fireq/io/sha256.h"
#include "tests/io/io_testing.h"

namespace fireq {
namespace {

using ::testing::HasSubstr;

TEST(Command, GivesExitCodeAndBothOutputs) {
  const CommandResult result = RunCommand({"sh", "-c", "echo out; echo err >&2; exit 3"});
  EXPECT_EQ(result.exit_code, 3);
  EXPECT_EQ(result.output, "out\nerr\n");
  EXPECT_EQ(RunCommand({"sh", "-c", "kill -9 $$"}).exit_code, 128 + 9);
  EXPECT_EQ(RunCommand({"cat"}).output, "");  // standard input is empty
}

TEST(Command, PassesArgumentsWithoutAShell) {
  EXPECT_EQ(RunCommand({"echo", "$HOME; ls", "a b"}).output, "$HOME; ls a b\n");
}

TEST(Command, KeepsTheTailOfALongOutput) {
  const std::string output = RunCommand({"sh", "-c", "yes | head -c 1000000; echo end"}).output;
  EXPECT_LT(output.size(), 200'000u);
  EXPECT_TRUE(output.ends_with("end\n"));
}

TEST(Command, MissingProgramsAreNamed) {
  EXPECT_THAT(ErrorOf([] { RunCommand({"no-such-program-fireq"}); }, ErrorCode::kNotFound),
              HasSubstr("no-such-program-fireq"));
}

std::string HashOf(const std::string& text, size_t chunk) {
  Sha256 hash;
  for (size_t i = 0; i < text.size(); i += chunk) {
    const std::string part = text.substr(i, chunk);
    hash.Update({reinterpret_cast<const uint8_t*>(part.data()), part.size()});
  }
  return hash.HexDigest();
}

// The examples of FIPS 180-4, fed in chunks of every kind.
TEST(Sha256, KnownDigests) {
  for (const size_t chunk : {size_t{1}, size_t{3}, size_t{64}, size_t{1000}}) {
    EXPECT_EQ(HashOf("", chunk),
              "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    EXPECT_EQ(HashOf("abc", chunk),
              "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    EXPECT_EQ(HashOf("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", chunk),
              "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    EXPECT_EQ(HashOf(std::string(1'000'000, 'a'), chunk),
              "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  }
}

}  // namespace
}  // namespace fireq
