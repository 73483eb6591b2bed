#include "fireq/checkpoint/quantised_checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "fireq/checkpoint/model_source.h"
#include "fireq/formats/weight_i4.h"
#include "fireq/io/command.h"
#include "fireq/io/json.h"
#include "fireq/io/text_file.h"
#include "tests/checkpoint/checkpoint_testing.h"
#include "tests/io/io_testing.h"

namespace fireq {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using Json = nlohmann::json;
namespace fs = std::filesystem;

// Columns 200 and 136: a short last group of 72 and one of 8.
ModelConfig WideConfig() {
  ModelConfig c = SmallConfig();
  c.hidden = 200;
  c.ffn = 136;
  c.qkv_bias = c.o_bias = true;
  return c;
}

QuantConfig SomeQuant() {
  QuantConfig q;
  q.arithmetic = {true, Activations::kE4M3, true, true, KvGrid::kAsymmetric};
  q.crs = q.key_shift = true;
  q.excluded = {"model.layers.1.mlp.down_proj", "model.layers.0.self_attn.o_proj"};
  q.recipe_json = R"({"name":"test"})";
  return q;
}

// Every code, scales of every kind that may be (either sign, subnormal, largest), all zero points.
WeightI4 RandomLinear(int64_t n, int64_t k, std::mt19937& random) {
  const WeightI4Layout layout = {n, k};
  WeightI4 out;
  out.n = n;
  out.k = k;
  out.codes = Tensor::Empty(DType::kU8, {n, layout.code_bytes_per_row()});
  out.scale = Tensor::Empty(DType::kE4M3, {n, layout.groups()});
  out.zero = Tensor::Empty(DType::kU8, {n, layout.groups()});
  for (int64_t i = 0; i < layout.code_bytes(); ++i) {
    out.codes.as<uint8_t>()[i] = static_cast<uint8_t>(random());
  }
  for (int64_t i = 0; i < layout.scale_bytes(); ++i) {
    const uint8_t magnitude = static_cast<uint8_t>(1 + random() % 126);
    out.scale.as<uint8_t>()[i] = static_cast<uint8_t>(magnitude | (random() % 2 << 7));
    out.zero.as<uint8_t>()[i] = static_cast<uint8_t>(random() % 16);
  }
  out.t = static_cast<float>(1 << (random() % 15));
  return out;
}

Tensor RandomFloats(DType dtype, const Shape& shape, std::mt19937& random) {
  std::vector<float> values;
  for (int64_t i = 0; i < NumElements(shape); ++i) {
    values.push_back(static_cast<float>(static_cast<int>(random() % 255) - 127) / 64.0f);
  }
  return Encode(values, shape, dtype);
}

class Quantised : public ::testing::Test {
 protected:
  // A checkpoint of random values at `target`; what was written stays in linears_ and tensors_.
  void Write(const fs::path& target, const ModelConfig& config, const QuantConfig& quant) {
    std::mt19937 random(5);
    QuantisedCheckpointWriter writer(target, config, quant, max_shard_bytes_);
    for (const TensorSpec& spec : StoredTensors(config, quant)) {
      if (spec.name.find(".weight_") == spec.name.npos) {
        tensors_[spec.name] = RandomFloats(spec.dtype, spec.shape, random);
        writer.Write(spec.name, tensors_[spec.name]);
      }
    }
    for (int64_t layer = 0; layer < config.num_layers; ++layer) {
      for (const Linear linear : kLinears) {
        const std::string name = LinearName(layer, linear);
        if (std::count(quant.excluded.begin(), quant.excluded.end(), name) > 0) continue;
        const Shape shape = LinearShape(config, linear);
        linears_[name] = RandomLinear(shape[0], shape[1], random);
        writer.WriteLinear(name, linears_[name]);
      }
    }
    writer.AddFile("tokenizer.json", "{}");
    writer.Finish();
  }

  // The error of opening `out_` after `change` has been applied to its config.json.
  std::string ErrorAfter(const std::function<void(Json&)>& change, ErrorCode code) {
    Write(out_, config_, quant_);
    Json json = ReadJsonFile(out_ / "config.json");
    change(json);
    WriteTextFile(out_ / "config.json", json.dump());
    return ErrorOf([&] { QuantisedCheckpoint{out_}; }, code);
  }

  // Writes `out_` again with one tensor replaced, or left out.
  void Replace(const std::string& name, const std::optional<Tensor>& tensor) {
    Write(out_, config_, quant_);
    const SafetensorsDirectory old(out_);
    std::vector<TensorSpec> specs;
    std::map<std::string, Tensor> tensors;
    for (const std::string& each : old.Names()) {
      if (each == name && !tensor) continue;
      tensors[each] = each == name ? *tensor : old.Get(each);
      specs.push_back({each, tensors[each].dtype(), tensors[each].shape()});
    }
    SafetensorsWriter writer(out_, specs);
    for (const auto& [each, value] : tensors) writer.Write(each, value);
    writer.Finish();
  }

  const ModelConfig config_ = WideConfig();
  const QuantConfig quant_ = SomeQuant();
  int64_t max_shard_bytes_ = kDefaultShardBytes;
  std::map<std::string, WeightI4> linears_;
  std::map<std::string, Tensor> tensors_;
  TemporaryDirectory dir_;
  const fs::path out_ = dir_ / "out";
};

void ExpectSameBytes(const Tensor& a, const Tensor& b, const std::string& name) {
  ASSERT_EQ(a.dtype(), b.dtype()) << name;
  ASSERT_EQ(a.shape(), b.shape()) << name;
  EXPECT_EQ(std::memcmp(a.data(), b.data(), static_cast<size_t>(a.size_bytes())), 0) << name;
}

TEST_F(Quantised, ReadsBackWhatWasWritten) {
  for (const int64_t max_shard_bytes : {kDefaultShardBytes, int64_t{30000}}) {
    max_shard_bytes_ = max_shard_bytes;
    Write(out_, config_, quant_);  // the second time: in the place of the first
    const QuantisedCheckpoint checkpoint(out_);
    EXPECT_EQ(ToHuggingFaceJson(checkpoint.config()), ToHuggingFaceJson(config_));
    EXPECT_EQ(ToJson(checkpoint.quant()), ToJson(quant_));
    for (const auto& [name, expected] : linears_) {
      const WeightI4 actual = checkpoint.LoadLinear(name);
      ExpectSameBytes(actual.codes, expected.codes, name);
      ExpectSameBytes(actual.scale, expected.scale, name);
      ExpectSameBytes(actual.zero, expected.zero, name);
      EXPECT_EQ(actual.t, expected.t);
    }
    for (const auto& [name, expected] : tensors_) {
      ExpectSameBytes(checkpoint.Load(name), expected, name);
    }
    EXPECT_EQ(checkpoint.Load("model.layers.1.mlp.down_proj.weight").dtype(), DType::kBF16);
    EXPECT_EQ(checkpoint.Load("model.layers.0.self_attn.q_proj.bias").dtype(), DType::kF32);
    EXPECT_EQ(checkpoint.Load("model.layers.1.self_attn.crs_k_factor").shape(), (Shape{2, 8}));
    EXPECT_EQ(checkpoint.Load("model.layers.1.self_attn.key_shift").shape(), (Shape{2, 8}));
    EXPECT_TRUE(IsQuantisedCheckpoint(out_));
    EXPECT_EQ(DetectModelKind(out_), ModelKind::kFireqQuantised);
    EXPECT_EQ(ReadTextFile(out_ / "tokenizer.json"), "{}");
    EXPECT_EQ(FileNames(dir_.path()), std::vector<std::string>{"out"});
  }
  EXPECT_TRUE(fs::exists(out_ / "model.safetensors.index.json"));
}

TEST_F(Quantised, LinearsThatAreNoneOrExcludedAreRefused) {
  Write(out_, config_, quant_);
  const QuantisedCheckpoint checkpoint(out_);
  EXPECT_TRUE(checkpoint.IsExcluded(quant_.excluded[0]));
  EXPECT_THAT(
      ErrorOf([&] { checkpoint.LoadLinear(quant_.excluded[0]); }, ErrorCode::kInvalidArgument),
      HasSubstr("model.layers.1.mlp.down_proj is stored in BF16"));
  EXPECT_THAT(ErrorOf([&] { checkpoint.LoadLinear("lm_head"); }, ErrorCode::kInvalidArgument),
              HasSubstr("no linear \"lm_head\""));
}

TEST_F(Quantised, ValuesThatMayNotBeAreRefusedWithTheirPlace) {
  const std::string name = "model.layers.0.mlp.up_proj";
  const auto load_error = [&] {
    const QuantisedCheckpoint checkpoint(out_);
    return ErrorOf([&] { checkpoint.LoadLinear(name); }, ErrorCode::kCorrupt);
  };
  const Shape groups = {136, 2};
  for (const uint8_t bad : {0x00, 0x80, 0x7F, 0xFF}) {
    std::vector<uint8_t> scale(272, 0x38);
    scale[2 * 17 + 1] = bad;
    Replace(name + kStoredScale, Tensor::FromVector(DType::kE4M3, groups, scale));
    EXPECT_THAT(load_error(), HasSubstr(StrCat("up_proj.weight_scale: a zero or NaN scale of byte "
                                               "value ",
                                               bad, " at row 17, group 1")));
  }
  std::vector<uint8_t> zero(272, 15);
  zero[2 * 135] = 16;
  Replace(name + kStoredZero, Tensor::FromVector(DType::kU8, groups, zero));
  EXPECT_THAT(load_error(), HasSubstr("up_proj.weight_zero: a zero point above 15 of byte value 16 "
                                      "at row 135, group 0"));
  for (const float t : {0.0f, 3.0f, -2.0f, INFINITY, NAN, 1e-40f}) {
    Replace(name + kStoredT, Tensor::FromVector<float>(DType::kF32, {}, {t}));
    EXPECT_THAT(load_error(), HasSubstr("is not a power of two"));
  }
  Replace(kFinalNormName, Tensor::FromVector(DType::kF32, {200}, std::vector<float>(200, NAN)));
  EXPECT_THAT(ErrorOf([&] { QuantisedCheckpoint(out_).Load(kFinalNormName); }, ErrorCode::kCorrupt),
              HasSubstr("model.norm.weight: nan at [0]"));
}

TEST_F(Quantised, WrongTensorsAreRefusedByName) {
  const std::string name = "model.layers.0.mlp.up_proj.weight_codes";
  Replace(name, std::nullopt);
  EXPECT_THAT(ErrorOf([&] { QuantisedCheckpoint{out_}; }, ErrorCode::kNotFound),
              HasSubstr("tensor " + name + " is missing"));
  Replace(name, Tensor::Zeros(DType::kU8, {136, 99}));
  EXPECT_THAT(ErrorOf([&] { QuantisedCheckpoint{out_}; }, ErrorCode::kCorrupt),
              HasSubstr(name + ": expected U8 [136, 100], got U8 [136, 99]"));
  Replace(name, Tensor::Zeros(DType::kE4M3, {136, 100}));
  EXPECT_THAT(ErrorOf([&] { QuantisedCheckpoint{out_}; }, ErrorCode::kCorrupt),
              HasSubstr("got F8_E4M3 [136, 100]"));
}

TEST_F(Quantised, ConfigurationsThatDoNotFitAreRefused) {
  const auto set = [](const char* pointer, Json value) {
    return [=](Json& json) { json[Json::json_pointer(pointer)] = value; };
  };
  EXPECT_THAT(ErrorAfter(set("/quantization_config/crs", false), ErrorCode::kCorrupt),
              HasSubstr("crs_k_factor: the format has no such tensor"));
  EXPECT_THAT(ErrorAfter(set("/quantization_config/format_version", 2), ErrorCode::kUnsupported),
              HasSubstr("format_version: 2 is newer"));
  EXPECT_THAT(ErrorAfter(set("/quantization_config/excluded", {"lm_head"}), ErrorCode::kCorrupt),
              HasSubstr("excluded: the model has no linear \"lm_head\""));
  EXPECT_THAT(
      ErrorAfter(set("/quantization_config/excluded", {"model.layers.0.self_attn.q_proj"}),
                 ErrorCode::kUnsupported),
      HasSubstr("excluded: the linears of model.layers.0.self_attn.qkv must be excluded all "
                "or none"));
  EXPECT_THAT(ErrorAfter(set("/hidden_size", 208), ErrorCode::kCorrupt),
              HasSubstr("expected BF16 [19, 208], got BF16 [19, 200]"));
  EXPECT_THAT(
      ErrorAfter([](Json& json) { json.erase("quantization_config"); }, ErrorCode::kCorrupt),
      HasSubstr("quantization_config: expected an object, got nothing"));
}

TEST_F(Quantised, TheWriterRefusesWhatTheReaderWould) {
  QuantisedCheckpointWriter writer(out_, config_, quant_);
  std::mt19937 random(1);
  const std::string name = "model.layers.0.mlp.up_proj";
  WeightI4 linear = RandomLinear(136, 200, random);
  linear.scale.as<uint8_t>()[3] = 0;
  EXPECT_THAT(ErrorOf([&] { writer.WriteLinear(name, linear); }, ErrorCode::kCorrupt),
              HasSubstr("at row 1, group 1"));
  linear = RandomLinear(136, 199, random);
  EXPECT_NO_THROW(CheckWeightI4(linear, name));
  EXPECT_THAT(ErrorOf([&] { writer.WriteLinear(name, linear); }, ErrorCode::kShapeMismatch),
              HasSubstr("up_proj: expected [136, 200], got [136, 199]"));
  linear = RandomLinear(135, 200, random);
  linear.n = 136;
  EXPECT_THAT(ErrorOf([&] { writer.WriteLinear(name, linear); }, ErrorCode::kShapeMismatch),
              HasSubstr("up_proj.weight_codes: expected U8 [136, 100], got U8 [135, 100]"));
  for (const char* file : {"config.json", "model.safetensors", "../x", "", ".hidden", "a/b"}) {
    EXPECT_THROW(writer.AddFile(file, "x"), Error) << file;
  }
  EXPECT_THAT(ErrorOf([&] { writer.Finish(); }, ErrorCode::kInvalidArgument),
              HasSubstr("was declared and never written"));
  EXPECT_FALSE(fs::exists(out_));
}

TEST_F(Quantised, AnUnfinishedRunLeavesTheOldCheckpointAndNothingElse) {
  Write(out_, config_, quant_);
  const std::string before = ReadTextFile(out_ / "model.safetensors");
  { QuantisedCheckpointWriter writer(out_, config_, quant_); }
  EXPECT_EQ(ReadTextFile(out_ / "model.safetensors"), before);
  EXPECT_EQ(FileNames(dir_.path()), std::vector<std::string>{"out"});
  WriteSmallModel(dir_ / "float", SmallConfig(), RandomSmallWeights(SmallConfig(), 1));
  EXPECT_THAT(ErrorOf([&] { QuantisedCheckpointWriter(dir_ / "float", config_, quant_); },
                      ErrorCode::kInvalidArgument),
              HasSubstr("holds no FireQ checkpoint"));
}

TEST_F(Quantised, AFullDiskIsSaidBeforeTheWorkAndLeavesNothing) {
  const FileSizeLimit limit(20000);
  EXPECT_THAT(ErrorOf([&] { QuantisedCheckpointWriter(out_, config_, quant_); }, ErrorCode::kIo),
              AllOf(HasSubstr("model.safetensors: cannot reserve"), HasSubstr("bytes: File too")));
  EXPECT_TRUE(fs::is_empty(dir_.path()));
}

// The format read without our code: read_checkpoint.py with numpy and safetensors, in the Python
// that FIREQ_TEST_PYTHON names. Equal in every bit, both products.
TEST_F(Quantised, PythonReadsTheSameNumbers) {
  const char* python = std::getenv("FIREQ_TEST_PYTHON");
  if (python == nullptr || *python == 0)
    GTEST_SKIP() << "FIREQ_TEST_PYTHON (with numpy, safetensors) is not set";
  Write(out_, config_, quant_);
  const std::string script = fs::path(FIREQ_TESTS_DIR) / "checkpoint/read_checkpoint.py";
  const CommandResult result =
      RunCommand({python, script, out_.string(), "-o", (dir_ / "values").string()});
  ASSERT_EQ(result.exit_code, 0) << result.output;
  const auto python_values = [&](const std::string& name) {
    return ReadTextFile(dir_ / "values" / (name + ".f32"));
  };
  for (const auto& [name, linear] : linears_) {
    const int64_t n = linear.codes.dim(0);
    const int64_t k = name.ends_with("down_proj") ? 136 : name.ends_with("o_proj") ? 32 : 200;
    const WeightI4Layout layout = {n, k};
    std::vector<float> exact, table;
    for (int64_t i = 0; i < n * k; ++i) {
      const uint8_t* row = linear.codes.as<uint8_t>() + (i / k) * layout.code_bytes_per_row();
      const int64_t group = (i / k) * layout.groups() + (i % k) / kGroup;
      const int code = CodeAt(row, i % k);
      const int zero = linear.zero.as<uint8_t>()[group];
      const float scale = E4M3ToFloat(linear.scale.as<uint8_t>()[group]);
      exact.push_back(ExactProduct(code, zero, scale) / linear.t);
      table.push_back(TableProduct(code, zero, scale) / linear.t);
    }
    const auto bytes = [](const std::vector<float>& values) {
      return std::string(reinterpret_cast<const char*>(values.data()), values.size() * 4);
    };
    EXPECT_TRUE(python_values(name + ".exact") == bytes(exact)) << name;
    EXPECT_TRUE(python_values(name + ".table") == bytes(table)) << name;
  }
  for (const auto& [name, tensor] : tensors_) {
    const Tensor values = ToF32(tensor, name);
    EXPECT_TRUE(python_values(name) == std::string(static_cast<char*>(values.data()),
                                                   static_cast<size_t>(values.size_bytes())))
        << name;
  }
}

}  // namespace
}  // namespace fireq
