#include "fireq/io/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "fireq/base/error.h"
#include "fireq/io/json.h"
#include "fireq/io/safetensors_writer.h"
#include "fireq/io/text_file.h"
#include "tests/io/io_testing.h"

namespace fireq {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
namespace fs = std::filesystem;

std::string Length(uint64_t length) {
  std::string out;
  for (int i = 0; i < 8; ++i) out += static_cast<char>((length >> (8 * i)) & 0xFF);
  return out;
}

// The bytes of a file with this header text and data, whatever they say.
std::string FileBytes(const std::string& header, const std::string& data) {
  return Length(header.size()) + header + data;
}

class Safetensors : public ::testing::Test {
 protected:
  std::string OpenError(const std::string& bytes, ErrorCode code = ErrorCode::kCorrupt) {
    WriteBytes(dir_ / "m.safetensors", bytes);
    return ErrorOf([&] { SafetensorsFile(dir_ / "m.safetensors"); }, code);
  }
  std::string HeaderError(const std::string& header, int data_bytes = 8) {
    return OpenError(FileBytes(header, std::string(static_cast<size_t>(data_bytes), 'd')));
  }
  TemporaryDirectory dir_;
};

TEST_F(Safetensors, ReadsAHandMadeFile) {
  const std::string header =
      R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"s":{"dtype":"U8","shape":[],)"
      R"("data_offsets":[8,9]},"e":{"dtype":"F16","shape":[3,0],"data_offsets":[9,9]},)"
      R"("__metadata__":{"format":"pt"}})";
  const float values[2] = {1.5f, -2.0f};
  std::string data(reinterpret_cast<const char*>(values), 8);
  WriteBytes(dir_ / "m.safetensors", FileBytes(header, data + "\x07"));
  const SafetensorsFile file(dir_ / "m.safetensors");
  EXPECT_EQ(file.metadata().at("format"), "pt");
  const Tensor a = file.Get("a");
  EXPECT_EQ(a.shape(), Shape{2});
  EXPECT_EQ(a.as<float>()[1], -2.0f);
  EXPECT_EQ(file.Get("s").as<uint8_t>()[0], 7);
  EXPECT_EQ(file.Get("e").num_elements(), 0);
  EXPECT_THAT(ErrorOf([&] { file.Get("b"); }, ErrorCode::kNotFound), HasSubstr("no tensor b"));
}

TEST_F(Safetensors, MisalignedDataAreCopied) {
  for (int pad = 0; pad < 8; ++pad) {
    const std::string header =
        R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})" + std::string(pad, ' ');
    const float values[2] = {1.5f, -2.0f};
    WriteBytes(dir_ / "m.safetensors",
               FileBytes(header, std::string(reinterpret_cast<const char*>(values), 8)));
    const Tensor a = SafetensorsFile(dir_ / "m.safetensors").Get("a");  // outlives the file object
    EXPECT_EQ(reinterpret_cast<uintptr_t>(a.data()) % 4, 0u);
    EXPECT_EQ(a.as<float>()[0], 1.5f);
    EXPECT_EQ(a.as<float>()[1], -2.0f);
  }
}

TEST_F(Safetensors, LyingLengthsAreRefused) {
  EXPECT_THAT(OpenError(""), HasSubstr("header length: 8 bytes at 0 are beyond the file's 0"));
  EXPECT_THAT(OpenError("1234567"), HasSubstr("beyond the file's 7"));
  EXPECT_THAT(OpenError(Length(uint64_t{4} << 30) + "{}"),
              HasSubstr("the header claims 4294967296 bytes, the limit is 104857600"));
  EXPECT_THAT(OpenError(Length(UINT64_MAX) + "{}"), HasSubstr("claims 18446744073709551615"));
  EXPECT_THAT(OpenError(Length(50'000'000) + "{}"),
              HasSubstr("50000000 bytes at 8 are beyond the file's 10"));
  EXPECT_THAT(OpenError(Length(0)), HasSubstr("invalid JSON at byte 0"));
}

TEST_F(Safetensors, BadHeadersNameTheTensorAndTheValue) {
  EXPECT_THAT(HeaderError("[]", 0), HasSubstr("m.safetensors: expected an object"));
  EXPECT_THAT(HeaderError(R"({"a":3})"), HasSubstr("m.safetensors: a: expected an object, got 3"));
  EXPECT_THAT(HeaderError(R"({"a":{"dtype":"F33","shape":[2],"data_offsets":[0,8]}})"),
              HasSubstr(R"(a: unknown dtype "F33")"));
  EXPECT_THAT(HeaderError(R"({"a":{"dtype":3,"shape":[2],"data_offsets":[0,8]}})"),
              HasSubstr("a.dtype: expected a string, got 3"));
  EXPECT_THAT(HeaderError(R"({"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})"),
              HasSubstr("a.shape[0]: expected an integer in 0.."));
  EXPECT_THAT(HeaderError(R"({"a":{"dtype":"F32","shape":2,"data_offsets":[0,8]}})"),
              HasSubstr("a.shape: expected an array"));
  EXPECT_THAT(HeaderError(R"({"a":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}})"),
              HasSubstr("a.shape[0]"));
  EXPECT_THAT(HeaderError(R"({"a":{"dtype":"F32","shape":[2]}})"), HasSubstr("a.data_offsets"));
  EXPECT_THAT(HeaderError(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})"),
              HasSubstr("begin <= end, got [8,0]"));
  EXPECT_THAT(HeaderError(R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}})"),
              HasSubstr("a.data_offsets: end 12 is beyond the 8 bytes"));
  EXPECT_THAT(HeaderError(R"({"a":{"dtype":"F16","shape":[2],"data_offsets":[0,8]}})"),
              HasSubstr("[0, 8] are 8 bytes, but [2] F16 needs 4"));
  EXPECT_THAT(HeaderError(R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],)"
                          R"("data_offsets":[0,8]}})"),
              HasSubstr("the size of [4294967296, 4294967296] F32 overflows"));
  EXPECT_THAT(HeaderError(R"({"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8],"x":1}})"),
              HasSubstr("a.x: unknown key"));
  EXPECT_THAT(HeaderError(R"({"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},)"
                          R"("a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}})"),
              HasSubstr("duplicate key \"a\""));
  EXPECT_THAT(HeaderError(R"({"__metadata__":{"format":1}})", 0),
              HasSubstr("__metadata__.format: expected a string"));
  EXPECT_THAT(HeaderError("{\"a\":" + std::string(1000, '[')), HasSubstr("nesting deeper than"));
}

TEST_F(Safetensors, OverlapsAndHolesAreRefused) {
  const auto two = [](int a0, int a1, int b0, int b1) {
    return StrCat(R"({"a":{"dtype":"U8","shape":[)", a1 - a0, R"(],"data_offsets":[)", a0, ",", a1,
                  R"(]},"b":{"dtype":"U8","shape":[)", b1 - b0, R"(],"data_offsets":[)", b0, ",",
                  b1, "]}}");
  };
  EXPECT_THAT(HeaderError(two(0, 5, 4, 8)), HasSubstr("b at byte 4 overlaps a, which ends at 5"));
  EXPECT_THAT(HeaderError(two(0, 8, 0, 8)), HasSubstr("overlaps"));
  EXPECT_THAT(HeaderError(two(0, 3, 4, 8)), HasSubstr("bytes 3 to 4 before b belong to no tensor"));
  EXPECT_THAT(HeaderError(two(1, 4, 4, 8)), HasSubstr("bytes 0 to 1 before a"));
  EXPECT_THAT(HeaderError(two(0, 4, 4, 7)), HasSubstr("the last 1 bytes belong to no tensor"));
  EXPECT_THAT(HeaderError("{}"), HasSubstr("the last 8 bytes belong to no tensor"));
}

TEST_F(Safetensors, KnownButUselessDTypesAreRefusedWhenAskedFor) {
  WriteBytes(dir_ / "m.safetensors",
             FileBytes(R"({"a":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}})", "12345678"));
  const SafetensorsFile file(dir_ / "m.safetensors");
  EXPECT_THAT(ErrorOf([&] { file.Get("a"); }, ErrorCode::kUnsupported),
              HasSubstr("a: tensors of dtype F64 are not supported"));
}

// Every prefix of a valid file, and every single byte of its header changed, either opens with
// tensors inside the file or is refused with an Error: never a crash (run under sanitizers too).
TEST_F(Safetensors, TruncatedAndMutatedFilesNeverCrash) {
  const std::string good = FileBytes(
      R"({"a":{"dtype":"U8","shape":[2,3],"data_offsets":[0,6]},"b":{"dtype":"F16","shape":[1],)"
      R"("data_offsets":[6,8]}})",
      "12345678");
  for (size_t size = 0; size < good.size(); ++size) {
    EXPECT_NE(OpenError(good.substr(0, size)), "") << size;
  }
  std::mt19937 random(1);
  int opened = 0;
  for (int i = 0; i < 1000; ++i) {
    std::string bytes = good;
    bytes[random() % (bytes.size() - 8)] = static_cast<char>(random());
    WriteBytes(dir_ / "m.safetensors", bytes);
    try {
      const SafetensorsFile file(dir_ / "m.safetensors");
      for (const auto& [name, entry] : file.entries()) {
        ASSERT_LE(entry.offset + entry.size_bytes, static_cast<int64_t>(bytes.size()));
        ++opened;
      }
    } catch (const Error&) {
    }
  }
  EXPECT_GT(opened, 0);
}

std::vector<TensorSpec> SomeSpecs() {
  return {{"codes", DType::kU8, {3, 5}},    {"scale", DType::kE4M3, {3, 1}},
          {"norm", DType::kF32, {7}},       {"t", DType::kF32, {}},
          {"embed", DType::kBF16, {11, 3}}, {"none", DType::kF32, {0, 4}}};
}

Tensor RandomTensor(const TensorSpec& spec, std::mt19937& random) {
  Tensor tensor = Tensor::Empty(spec.dtype, spec.shape);
  for (int64_t i = 0; i < tensor.size_bytes(); ++i) {
    static_cast<uint8_t*>(tensor.data())[i] = static_cast<uint8_t>(random());
  }
  return tensor;
}

TEST_F(Safetensors, WritesWhatItReads) {
  for (const int64_t max_shard_bytes : {kDefaultShardBytes, int64_t{30}, int64_t{1}}) {
    const TemporaryDirectory out;
    const std::vector<TensorSpec> specs = SomeSpecs();
    std::mt19937 random(7);
    std::map<std::string, Tensor> tensors;
    SafetensorsWriter writer(out.path(), specs, max_shard_bytes);
    for (auto spec = specs.rbegin(); spec != specs.rend(); ++spec) {  // any order
      tensors[spec->name] = RandomTensor(*spec, random);
      writer.Write(spec->name, tensors[spec->name]);
    }
    writer.Finish();
    EXPECT_EQ(fs::exists(out / "model.safetensors"), max_shard_bytes == kDefaultShardBytes);
    const SafetensorsDirectory read(out.path());
    EXPECT_EQ(read.Names().size(), specs.size());
    for (const TensorSpec& spec : specs) {
      const Tensor tensor = read.Get(spec.name);
      EXPECT_EQ(tensor.dtype(), spec.dtype);
      EXPECT_EQ(tensor.shape(), spec.shape);
      EXPECT_EQ(std::memcmp(tensor.data(), tensors[spec.name].data(),
                            static_cast<size_t>(tensor.size_bytes())),
                0)
          << spec.name;
    }
  }
}

// Whatever the names' lengths, so that every value can be read where it lies.
TEST_F(Safetensors, DataBeginAtAMultipleOfEight) {
  for (size_t length = 1; length <= 8; ++length) {
    const TemporaryDirectory out;
    const std::string name(length, 'n');
    SafetensorsWriter writer(out.path(), {{name, DType::kI64, {1}}});
    writer.Write(name, Tensor::Zeros(DType::kI64, {1}));
    writer.Finish();
    EXPECT_EQ(SafetensorsFile(out / "model.safetensors").entries().at(name).offset % 8, 0);
  }
}

TEST_F(Safetensors, WriterRefusesWhatWasNotDeclared) {
  SafetensorsWriter writer(dir_.path(), SomeSpecs());
  EXPECT_THAT(ErrorOf([&] { writer.Write("x", Tensor::Zeros(DType::kU8, {1})); },
                      ErrorCode::kInvalidArgument),
              HasSubstr("tensor x was not declared"));
  EXPECT_THAT(ErrorOf([&] { writer.Write("norm", Tensor::Zeros(DType::kF32, {8})); },
                      ErrorCode::kShapeMismatch),
              HasSubstr("norm: declared F32 [7], written F32 [8]"));
  writer.Write("norm", Tensor::Zeros(DType::kF32, {7}));
  EXPECT_THAT(ErrorOf([&] { writer.Write("norm", Tensor::Zeros(DType::kF32, {7})); },
                      ErrorCode::kInvalidArgument),
              HasSubstr("norm is written twice"));
  EXPECT_THAT(ErrorOf([&] { writer.Finish(); }, ErrorCode::kInvalidArgument),
              HasSubstr("never written"));
  EXPECT_FALSE(fs::exists(dir_ / "model.safetensors"));
  EXPECT_THROW(SafetensorsWriter(dir_.path(), {{"a", DType::kU8, {1}}, {"a", DType::kU8, {1}}}),
               Error);
}

TEST_F(Safetensors, FullDiskIsNoticedBeforeTheWorkAndLeavesNothing) {
  const FileSizeLimit limit(4096);
  EXPECT_THAT(ErrorOf(
                  [&] {
                    SafetensorsWriter(dir_.path(), {{"a", DType::kU8, {100000}}});
                  },
                  ErrorCode::kIo),
              AllOf(HasSubstr("model.safetensors: cannot reserve"), HasSubstr("File too large")));
  EXPECT_TRUE(fs::is_empty(dir_.path()));
}

class Shards : public Safetensors {
 protected:
  void SetUp() override {
    SafetensorsWriter writer(dir_.path(), {{"a", DType::kU8, {4}}, {"b", DType::kU8, {4}}}, 4);
    writer.Write("a", Tensor::Zeros(DType::kU8, {4}));
    writer.Write("b", Tensor::Zeros(DType::kU8, {4}));
    writer.Finish();
  }
  std::string IndexError(const std::string& index, ErrorCode code) {
    WriteBytes(dir_ / "model.safetensors.index.json", index);
    return ErrorOf([&] { SafetensorsDirectory(dir_.path()); }, code);
  }
};

TEST_F(Shards, MissingOnesAreAllNamed) {
  fs::remove(dir_ / "model-00001-of-00002.safetensors");
  fs::remove(dir_ / "model-00002-of-00002.safetensors");
  EXPECT_THAT(ErrorOf([&] { SafetensorsDirectory(dir_.path()); }, ErrorCode::kNotFound),
              HasSubstr("missing shards: model-00001-of-00002.safetensors, "
                        "model-00002-of-00002.safetensors"));
}

TEST_F(Shards, BadIndicesAreRefused) {
  EXPECT_THAT(IndexError("{}", ErrorCode::kCorrupt), HasSubstr("weight_map: expected an object"));
  EXPECT_THAT(IndexError(R"({"weight_map":{"a":1}})", ErrorCode::kCorrupt),
              HasSubstr("weight_map.a: expected a string"));
  for (const char* name : {"../m.safetensors", "/etc/passwd", "..", "", "a/b"}) {
    EXPECT_THAT(IndexError(StrCat(R"({"weight_map":{"a":")", name, "\"}}"), ErrorCode::kCorrupt),
                HasSubstr("is not the name of a file in this directory"));
  }
  EXPECT_THAT(
      IndexError(R"({"weight_map":{"a":"model-00002-of-00002.safetensors"}})", ErrorCode::kCorrupt),
      HasSubstr("model-00002-of-00002.safetensors does not hold this tensor"));
}

TEST_F(Shards, ADirectoryWithoutSafetensorsSaysSo) {
  const TemporaryDirectory other;
  EXPECT_THAT(ErrorOf([&] { SafetensorsDirectory(other.path()); }, ErrorCode::kNotFound),
              HasSubstr("has neither model.safetensors nor"));
  WriteBytes(other / "pytorch_model.bin", "x");
  EXPECT_THAT(ErrorOf([&] { SafetensorsDirectory(other.path()); }, ErrorCode::kNotFound),
              HasSubstr("PyTorch .bin files are not supported"));
}

}  // namespace
}  // namespace fireq
