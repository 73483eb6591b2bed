#include "fireq/io/bzip2_file.h"

#include <bzlib.h>
#include <gmock/gmock.h>

#include "tests/io/io_testing.h"

namespace fireq {
namespace {

std::string Compressed(std::string text) {
  std::string out(text.size() + text.size() / 100 + 600, '\0');
  unsigned size = static_cast<unsigned>(out.size());
  EXPECT_EQ(BZ2_bzBuffToBuffCompress(out.data(), &size, text.data(),
                                     static_cast<unsigned>(text.size()), 1, 0, 0),
            BZ_OK);
  out.resize(size);
  return out;
}

std::string LongText() {
  std::string text;
  for (int i = 0; i < 60000; ++i) text += std::to_string(i * 7919) + "\n";
  return text;
}

TEST(Bzip2File, UnfoldsOneStreamAndSeveral) {
  const TemporaryDirectory directory;
  const auto path = directory / "text.bz2";
  const std::string text = LongText();
  WriteBytes(path, Compressed(text));
  EXPECT_EQ(ReadBzip2File(path), text);
  WriteBytes(path, Compressed(text) + Compressed("") + Compressed("tail"));
  EXPECT_EQ(ReadBzip2File(path), text + "tail");
}

TEST(Bzip2File, RefusesWhatIsBroken) {
  const TemporaryDirectory directory;
  const auto path = directory / "text.bz2";
  const std::string good = Compressed(LongText());
  const auto error = [&](const std::string& bytes, ErrorCode code) {
    WriteBytes(path, bytes);
    return ErrorOf([&] { ReadBzip2File(path, 1 << 20); }, code);
  };
  EXPECT_THAT(error("", ErrorCode::kCorrupt), testing::HasSubstr("text.bz2"));
  error("plain text", ErrorCode::kCorrupt);
  EXPECT_THAT(error(good.substr(0, good.size() / 2), ErrorCode::kCorrupt),
              testing::HasSubstr("ends within"));
  std::string flipped = good;
  flipped[good.size() / 2] ^= 0x10;
  error(flipped, ErrorCode::kCorrupt);
  error(good + "more", ErrorCode::kCorrupt);
  EXPECT_THAT(error(Compressed(std::string(10 << 20, 'x')), ErrorCode::kUnsupported),
              testing::HasSubstr("1048576"));
  ErrorOf([&] { ReadBzip2File(directory / "none.bz2"); }, ErrorCode::kNotFound);
}

}  // namespace
}  // namespace fireq
