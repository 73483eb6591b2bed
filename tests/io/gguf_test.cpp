#include "fireq/io/gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "fireq/base/error.h"
#include "tests/io/gguf_builder.h"
#include "tests/io/io_testing.h"

namespace fireq {
namespace {

using ::testing::HasSubstr;

class Gguf : public ::testing::Test {
 protected:
  std::shared_ptr<const GgufFile> OpenBytes(const std::string& bytes) {
    WriteBytes(dir_ / "m.gguf", bytes);
    return GgufFile::Open(dir_ / "m.gguf");
  }
  std::string OpenError(const std::string& bytes, ErrorCode code = ErrorCode::kCorrupt) {
    return ErrorOf([&] { OpenBytes(bytes); }, code);
  }
  TemporaryDirectory dir_;
};

GgufBuilder SmallFile() {
  GgufBuilder builder;
  builder.String("general.architecture", "llama").U32("llama.block_count", 2);
  builder.Add("a", {2, 3}, 0, std::string(24, '\0')).Add("b", {32}, 2, std::string(18, '\1'));
  return builder;
}

TEST_F(Gguf, ReadsEveryKindOfValue) {
  GgufBuilder builder;
  builder.Key("u8", 0, "\xff").Key("i8", 1, "\xff").Key("u16", 2, "\xff\xff");
  builder.Key("i16", 3, "\xff\xff").U32("u32", 4000000000u).Key("i32", 5, Raw<int32_t>(-5));
  builder.F32("f32", 1.5f).Key("bool", 7, "\1").String("string", "caf\xc3\xa9 \xff");
  builder.Key("u64", 10, Raw<uint64_t>(UINT64_MAX)).Key("i64", 11, Raw<int64_t>(INT64_MIN));
  builder.Key("f64", 12, Raw<double>(0.1));
  builder.Key("list", 9, Raw<uint32_t>(8) + Raw<uint64_t>(2) + GgufString("x") + GgufString(""));
  builder.Key("nested", 9,
              Raw<uint32_t>(9) + Raw<uint64_t>(1) + Raw<uint32_t>(0) + Raw<uint64_t>(2) + "\1\2");
  for (const uint32_t version : {2u, 3u}) {
    builder.version = version;
    const auto file = OpenBytes(builder.Build());
    EXPECT_EQ(file->version(), version);
    const nlohmann::json& m = file->metadata();
    EXPECT_EQ(m["u8"], 255);
    EXPECT_EQ(m["i8"], -1);
    EXPECT_EQ(m["u16"], 65535);
    EXPECT_EQ(m["i16"], -1);
    EXPECT_EQ(m["u32"], 4000000000u);
    EXPECT_EQ(m["i32"], -5);
    EXPECT_EQ(m["f32"], 1.5);
    EXPECT_EQ(m["bool"], true);
    EXPECT_EQ(m["string"], "caf\xc3\xa9 \xff");
    EXPECT_EQ(m["u64"], UINT64_MAX);
    EXPECT_EQ(m["i64"], INT64_MIN);
    EXPECT_EQ(m["f64"], 0.1);
    EXPECT_EQ(m["list"], nlohmann::json({"x", ""}));
    EXPECT_EQ(m["nested"], nlohmann::json::parse("[[1,2]]"));
  }
}

// The values come from the Python package gguf (tests/golden/make_gguf_types.py): equal in every
// bit, for every type that is readable.
TEST_F(Gguf, DecodesEveryTypeAsThePythonPackageDoes) {
  const std::string golden = std::filesystem::path(FIREQ_TESTS_DIR) / "golden/gguf_types.gguf";
  const auto file = GgufFile::Open(golden);
  int types = 0;
  for (const auto& [name, entry] : file->entries()) {
    if (!file->Has(name + ".values")) continue;
    const Tensor expected = file->Get(name + ".values");
    const Tensor actual = file->Get(name);
    ASSERT_EQ(actual.shape(), expected.shape()) << name;
    ASSERT_GT(actual.num_elements(), 60) << name;
    for (int64_t i = 0; i < actual.num_elements(); ++i) {
      const float want = expected.as<float>()[i];
      if (actual.dtype() == DType::kF32) {
        ASSERT_EQ(std::memcmp(&actual.as<float>()[i], &want, 4), 0)
            << name << "[" << i << "]: " << actual.as<float>()[i] << ", gguf has " << want;
      }
    }
    ++types;
  }
  EXPECT_EQ(types, 15);
  EXPECT_EQ(file->Get("F16").dtype(), DType::kF16);
  EXPECT_EQ(file->Get("BF16").dtype(), DType::kBF16);
}

TEST_F(Gguf, ShapesAreSlowestFirstAndTensorsOutliveTheFile) {
  float values[6] = {0, 1, 2, 3, 4, 5};
  GgufBuilder builder;
  builder.Add("a", {2, 3}, 0, std::string(reinterpret_cast<char*>(values), 24));
  const Tensor a = OpenBytes(builder.Build())->Get("a");
  EXPECT_EQ(a.shape(), (Shape{3, 2}));
  EXPECT_EQ(a.as<float>()[5], 5.0f);
}

TEST_F(Gguf, HonoursTheAlignmentKey) {
  GgufBuilder builder;
  builder.alignment = 1;
  builder.U32("general.alignment", 1).Add("u", {1}, 24, "x").Add("a", {1}, 0, Raw(2.5f));
  const Tensor a = OpenBytes(builder.Build())->Get("a");  // misaligned for F32: a copy
  EXPECT_EQ(a.as<float>()[0], 2.5f);
  for (const uint32_t bad : {0u, 3u, 48u, 1u << 31}) {
    GgufBuilder wrong = SmallFile();
    wrong.U32("general.alignment", bad);
    EXPECT_THAT(OpenError(wrong.Build()), HasSubstr("general.alignment: expected a power of two"));
  }
  GgufBuilder text = SmallFile();
  text.String("general.alignment", "32");
  EXPECT_THAT(OpenError(text.Build()), HasSubstr("general.alignment"));
}

TEST_F(Gguf, WrongHeadersAreRefused) {
  EXPECT_THAT(OpenError(""), HasSubstr("magic: 4 bytes at 0 are beyond the file's 0"));
  GgufBuilder builder = SmallFile();
  builder.magic = "GGML";
  EXPECT_THAT(OpenError(builder.Build()), HasSubstr("not a GGUF file"));
  builder.magic = "GGUF";
  builder.version = 1;
  EXPECT_THAT(OpenError(builder.Build(), ErrorCode::kUnsupported),
              HasSubstr("GGUF version 1 is not supported"));
  builder.version = __builtin_bswap32(3);
  EXPECT_THAT(OpenError(builder.Build(), ErrorCode::kUnsupported), HasSubstr("big-endian"));
}

TEST_F(Gguf, LyingCountsAndLengthsAreRefusedBeforeAnythingIsAllocated) {
  GgufBuilder builder = SmallFile();
  builder.tensor_count = INT64_MAX;
  EXPECT_THAT(OpenError(builder.Build()),
              HasSubstr("tensor count: a count of 9223372036854775807 cannot be"));
  builder = SmallFile();
  builder.key_count = 1'000'000;
  EXPECT_THAT(OpenError(builder.Build()), HasSubstr("key count: a count of 1000000 cannot be"));
  builder = SmallFile();
  builder.key_count = 5;
  EXPECT_NE(OpenError(builder.Build()), "");
  const std::string huge = Raw<uint64_t>(uint64_t{1} << 62);
  EXPECT_THAT(OpenError(SmallFile().Key("s", 8, huge).Build()),
              HasSubstr("s: 4611686018427387904 bytes at"));
  EXPECT_THAT(OpenError(SmallFile().Key("s", 8, Raw(UINT64_MAX)).Build()),
              HasSubstr("s: 18446744073709551615 bytes at"));
  EXPECT_THAT(OpenError(SmallFile().Key("l", 9, Raw<uint32_t>(0) + huge).Build()),
              HasSubstr("l: a count of 4611686018427387904 cannot be"));
  EXPECT_THAT(OpenError(SmallFile().Key("l", 9, Raw<uint32_t>(13) + huge).Build()),
              HasSubstr("l: unknown array element type 13"));
  EXPECT_THAT(OpenError(SmallFile().Key("v", 99, "").Build()),
              HasSubstr("v: unknown value type 99"));
  EXPECT_THAT(OpenError(SmallFile().Key("b", 7, "\2").Build()), HasSubstr("b: a bool of value 2"));
  std::string nested;
  for (int i = 0; i < 100; ++i) nested += Raw<uint32_t>(9) + Raw<uint64_t>(1);
  EXPECT_THAT(OpenError(SmallFile().Key("l", 9, nested).Build()),
              HasSubstr("l: arrays nested too deep"));
  EXPECT_THAT(OpenError(SmallFile().U32("llama.block_count", 2).Build()),
              HasSubstr("duplicate key llama.block_count"));
  EXPECT_THAT(OpenError(SmallFile().U32("", 2).Build()), HasSubstr("key of 0 bytes"));
}

TEST_F(Gguf, WrongTensorsAreRefusedByName) {
  const auto with = [](const std::vector<uint64_t>& dims, uint32_t type, uint64_t offset) {
    return SmallFile().Tensor("bad", dims, type, offset).Build();
  };
  EXPECT_THAT(OpenError(with({}, 0, 64)), HasSubstr("bad: rank 0 is not in 1..4"));
  EXPECT_THAT(OpenError(with({1, 1, 1, 1, 1}, 0, 64)), HasSubstr("bad: rank 5"));
  EXPECT_THAT(OpenError(with({4, 0}, 0, 64)), HasSubstr("bad: dimension 0 is zero or overflows"));
  EXPECT_THAT(OpenError(with({1ull << 40, 1ull << 40}, 0, 64)),
              HasSubstr("bad: dimension 1099511627776 is zero or overflows"));
  EXPECT_THAT(OpenError(with({UINT64_MAX}, 0, 64)), HasSubstr("18446744073709551615"));
  EXPECT_THAT(OpenError(with({1ull << 62}, 0, 64)), HasSubstr("F32 overflows"));
  EXPECT_THAT(OpenError(with({33}, 2, 64)),
              HasSubstr("bad: rows of 33 are not whole blocks of 32 of type Q4_0"));
  EXPECT_THAT(OpenError(with({1}, 0, 65)),
              HasSubstr("bad: offset 65 is not a multiple of the alignment 32"));
  EXPECT_THAT(OpenError(with({1}, 0, UINT64_MAX - 31)), HasSubstr("is beyond the file"));
  EXPECT_THAT(OpenError(with({1}, 0, 1 << 20)),
              HasSubstr("bad: 4 bytes at offset 1048576 are beyond the"));
  EXPECT_THAT(OpenError(with({1000}, 0, 32)), HasSubstr("bad: 4000 bytes at offset 32"));
  EXPECT_THAT(OpenError(with({1}, 0, 0)), HasSubstr("overlaps"));
  EXPECT_THAT(OpenError(with({1}, 4, 64), ErrorCode::kUnsupported),
              HasSubstr("bad: unknown tensor type 4"));
  EXPECT_THAT(OpenError(SmallFile().Tensor("a", {1}, 0, 32).Build()),
              HasSubstr("duplicate tensor a"));
}

TEST_F(Gguf, TypesWithoutADecoderAreRefusedByNameWhenAskedFor) {
  GgufBuilder builder;
  builder.Add("w", {256}, 29, std::string(56, '\0'));
  const auto file = OpenBytes(builder.Build());
  EXPECT_THAT(ErrorOf([&] { file->Get("w"); }, ErrorCode::kUnsupported),
              HasSubstr("w: tensors of type IQ1_M are not supported (supported: F32, F16, BF16"));
  EXPECT_THAT(ErrorOf([&] { file->Get("x"); }, ErrorCode::kNotFound), HasSubstr("no tensor x"));
}

TEST_F(Gguf, TruncatedAndMutatedFilesNeverCrash) {
  const std::string good = SmallFile().Build();
  for (size_t size = 0; size < good.size(); ++size) {
    EXPECT_NE(OpenError(good.substr(0, size)), "") << size;
  }
  std::mt19937 random(1);
  for (int i = 0; i < 1000; ++i) {
    std::string bytes = good;
    bytes[random() % bytes.size()] = static_cast<char>(random());
    try {
      const auto file = OpenBytes(bytes);
      for (const auto& [name, entry] : file->entries()) file->Get(name);
    } catch (const Error&) {
    }
  }
}

}  // namespace
}  // namespace fireq
