// Every check of ops/validate.cpp refuses: each case starts from args that pass and breaks one
// thing.
#include "fireq/ops/validate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "fireq/base/math.h"
#include "tests/io/io_testing.h"

namespace fireq {
namespace {

using ::testing::HasSubstr;

Tensor I32(const std::vector<int32_t>& values, Shape shape) {
  return Tensor::FromVector(DType::kI32, std::move(shape), values);
}

Tensor Of(DType dtype, Shape shape) { return Tensor::Zeros(dtype, std::move(shape)); }

// E4M3 [t, k] with what belongs to it as the input of a linear.
ActTensor Codes(int64_t t, int64_t k) {
  return {Of(DType::kE4M3, {t, k}), Of(DType::kF32, {t}),
          Of(DType::kF32, {t, CeilDiv<int64_t>(k, kGroup)})};
}

// Valid args, then `broken` with one field changed: the error's code and a part of its message.
template <class Args>
struct Refusal {
  std::function<void(Args&)> change;
  ErrorCode code;
  const char* message;
};

template <class Args>
void ExpectRefusals(const std::function<Args()>& valid,
                    const std::vector<Refusal<Args>>& refusals) {
  EXPECT_NO_THROW(Validate(valid()));
  for (const Refusal<Args>& refusal : refusals) {
    Args args = valid();
    refusal.change(args);
    EXPECT_THAT(ErrorOf([&] { Validate(args); }, refusal.code), HasSubstr(refusal.message));
  }
}

WeightI4 StoredWeight(int64_t n, int64_t k) {
  const WeightI4Layout layout{n, k};
  WeightI4 w;
  w.codes = Of(DType::kU8, {n, layout.code_bytes_per_row()});
  w.scale = Tensor::FromVector(DType::kE4M3, {n, layout.groups()},
                               std::vector<uint8_t>(static_cast<size_t>(layout.scale_bytes()), 56));
  w.zero = Of(DType::kU8, {n, layout.groups()});
  w.n = n;
  w.k = k;
  return w;
}

LinearPart QuantisedPart(const char* name, int64_t n, int64_t k) {
  return {.name = name, .i4 = StoredWeight(n, k)};
}

LinearPart FloatPart(const char* name, int64_t n, int64_t k) {
  return {.name = name, .weight = Of(DType::kBF16, {n, k})};
}

TEST(Validate, QuantisedLinearSpec) {
  const auto valid = [] {
    LinearSpec spec{.parts = {QuantisedPart("gate", 6, 200), QuantisedPart("up", 6, 200)},
                    .gate_up = true};
    spec.parts[0].bias = Of(DType::kF32, {6});
    return spec;
  };
  ExpectRefusals<LinearSpec>(
      valid,
      {{[](auto& s) { s.parts.clear(); }, ErrorCode::kInvalidArgument, "linear without parts"},
       {[](auto& s) { s.parts[1].i4 = {}; }, ErrorCode::kInvalidArgument,
        "up: needs either float or INT4 weights"},
       {[](auto& s) {
          s.parts[1].weight = Of(DType::kF32, {6, 200});
        },
        ErrorCode::kInvalidArgument, "up: needs either"},
       {[](auto& s) { s.parts[1] = QuantisedPart("up", 6, 199); }, ErrorCode::kShapeMismatch,
        "up: K 199, not 200 as in gate"},
       {[](auto& s) { s.parts[1] = QuantisedPart("up", 7, 200); }, ErrorCode::kShapeMismatch,
        "up: N 7, not 6 as in gate"},
       {[](auto& s) { s.parts[1] = FloatPart("up", 6, 200); }, ErrorCode::kUnsupported,
        "up and gate: float and INT4 weights in one fused linear"},
       {[](auto& s) { s.parts[0].bias = Of(DType::kF32, {5}); }, ErrorCode::kShapeMismatch,
        "gate: bias is [5], not [6]"},
       {[](auto& s) { s.parts.push_back(QuantisedPart("more", 6, 200)); },
        ErrorCode::kInvalidArgument, "gate: gate|up has 3 parts"},
       {[](auto& s) { s.parts[0].i4.n = 0; }, ErrorCode::kShapeMismatch, "gate: [0, 200] is empty"},
       {[](auto& s) {
          s.parts[0].i4.codes = Of(DType::kU8, {6, 99});
        },
        ErrorCode::kShapeMismatch, "gate.weight_codes: expected U8 [6, 100], got U8 [6, 99]"},
       {[](auto& s) {
          s.parts[0].i4.scale = Of(DType::kU8, {6, 2});
        },
        ErrorCode::kShapeMismatch, "gate.weight_scale: expected F8_E4M3 [6, 2], got U8 [6, 2]"},
       {[](auto& s) { s.parts[0].i4.scale.template as<uint8_t>()[3] = 0x80; }, ErrorCode::kCorrupt,
        "gate.weight_scale: a zero or NaN scale of byte value 128 at row 1, group 1"},
       {[](auto& s) { s.parts[0].i4.scale.template as<uint8_t>()[0] = 0x7F; }, ErrorCode::kCorrupt,
        "byte value 127 at row 0, group 0"},
       {[](auto& s) { s.parts[0].i4.zero.template as<uint8_t>()[11] = 16; }, ErrorCode::kCorrupt,
        "gate.weight_zero: a zero point above 15 of byte value 16 at row 5, group 1"},
       {[](auto& s) { s.parts[0].i4.t = 3.0f; }, ErrorCode::kCorrupt,
        "gate.weight_t: 3 is not a power of two"},
       {[](auto& s) { s.parts[0].i4.t = -2.0f; }, ErrorCode::kCorrupt, "-2 is not a power of two"},
       // 1/t would be infinite.
       {[](auto& s) { s.parts[0].i4.t = 0x1p-140f; }, ErrorCode::kCorrupt,
        "is not a power of two"}});
}

TEST(Validate, FloatLinearSpec) {
  ExpectRefusals<LinearSpec>([] { return LinearSpec{.parts = {FloatPart("o", 6, 200)}}; },
                             {{[](auto& s) {
                                 s.parts[0].weight = Of(DType::kE4M3, {6, 200});
                               },
                               ErrorCode::kUnsupported, "o: weights of type F8_E4M3"},
                              {[](auto& s) { s.parts[0].weight = Of(DType::kF32, {6}); },
                               ErrorCode::kShapeMismatch, "o: weight is [6], not"}});
}

TEST(Validate, Embed) {
  ExpectRefusals<EmbedArgs>(
      [] {
        return EmbedArgs{I32({0, 4}, {2}), Of(DType::kF16, {5, 8}), {}, Of(DType::kBF16, {2, 8})};
      },
      {{[](auto& a) { a.ids = {}; }, ErrorCode::kInvalidArgument, "embed: ids is missing"},
       {[](auto& a) {
          a.ids = I32({0, 5}, {2});
        },
        ErrorCode::kInvalidArgument, "embed: ids[1] = 5 is not in [0, 5)"},
       {[](auto& a) {
          a.ids = I32({-1, 0}, {2});
        },
        ErrorCode::kInvalidArgument, "ids[0] = -1"},
       {[](auto& a) {
          a.ids = I32({-4, 0}, {2});
          a.chosen = I32({1, 2, 3}, {3});
        },
        ErrorCode::kInvalidArgument, "ids[0] = -4 is not in [-3, 5)"},
       {[](auto& a) {
          a.table = Of(DType::kU8, {5, 8});
        },
        ErrorCode::kUnsupported, "embed: table of type U8"},
       {[](auto& a) {
          a.out = Of(DType::kBF16, {2, 9});
        },
        ErrorCode::kShapeMismatch, "embed: out is [2, 9], not [2, 8]"},
       {[](auto& a) {
          a.out = Of(DType::kF16, {2, 8});
        },
        ErrorCode::kInvalidArgument, "embed: out is F16, not BF16 or F32"}});
}

TEST(Validate, RmsNormAndQuantize) {
  ExpectRefusals<RmsNormArgs>(
      [] {
        return RmsNormArgs{.x = Of(DType::kBF16, {3, 200}),
                           .weight = Of(DType::kF32, {200}),
                           .eps = 1e-5f,
                           .out = Codes(3, 200)};
      },
      {{[](auto& a) { a.x = {}; }, ErrorCode::kInvalidArgument, "rms_norm: x is missing"},
       {[](auto& a) { a.weight = Of(DType::kF32, {199}); }, ErrorCode::kShapeMismatch,
        "rms_norm: weight is [199], not [200]"},
       {[](auto& a) { a.weight = Of(DType::kBF16, {200}); }, ErrorCode::kInvalidArgument,
        "rms_norm: weight is BF16, not F32"},
       {[](auto& a) { a.eps = std::nanf(""); }, ErrorCode::kInvalidArgument, "rms_norm: eps nan"},
       {[](auto& a) { a.out.values = {}; }, ErrorCode::kInvalidArgument,
        "rms_norm: out is missing"},
       {[](auto& a) { a.out.scale = {}; }, ErrorCode::kInvalidArgument, "out scale is missing"},
       {[](auto& a) {
          a.out.sums = Of(DType::kF32, {3, 1});
        },
        ErrorCode::kShapeMismatch, "out sums is [3, 1], not [3, 2]"},
       {[](auto& a) {
          a.out.values = Of(DType::kF32, {3, 200});
        },
        ErrorCode::kInvalidArgument, "out is F32 and has a scale"}});
  ExpectRefusals<QuantizeArgs>(
      [] {
        return QuantizeArgs{Of(DType::kF32, {3, 8}), Codes(3, 8)};
      },
      {{[](auto& a) {
          a.x = Of(DType::kU8, {3, 8});
        },
        ErrorCode::kInvalidArgument, "quantize: x is U8, not BF16 or F32"},
       {[](auto& a) {
          a.out = {.values = Of(DType::kF32, {3, 8})};
        },
        ErrorCode::kInvalidArgument, "quantize: out is neither E4M3 nor I8"},
       {[](auto& a) { a.out = Codes(2, 8); }, ErrorCode::kShapeMismatch,
        "quantize: out is [2, 8], not [3, 8]"}});
}

// A prepared weight of which only its shape is asked.
class Prepared : public PreparedLinear {
 public:
  Prepared(int64_t n, int64_t k, bool quantized) : n_(n), k_(k), quantized_(quantized) {}
  int64_t n() const override { return n_; }
  int64_t k() const override { return k_; }
  bool quantized() const override { return quantized_; }

 private:
  int64_t n_, k_;
  bool quantized_;
};

TEST(Validate, Linear) {
  const Prepared quantised(6, 200, true), odd(7, 200, true), plain(6, 200, false);
  ExpectRefusals<LinearArgs>(
      [&] {
        LinearArgs args{.x = Codes(3, 200), .w = &quantised};
        args.epilogue = Epilogue::kResidual;
        args.residual = args.y = Of(DType::kBF16, {3, 6});
        return args;
      },
      {{[](auto& a) { a.w = nullptr; }, ErrorCode::kInvalidArgument, "linear: weights are missing"},
       {[](auto& a) { a.x.values = {}; }, ErrorCode::kShapeMismatch, "linear: x is missing"},
       {[](auto& a) { a.x = Codes(3, 199); }, ErrorCode::kShapeMismatch,
        "linear: x is [3, 199], not [3, 200]"},
       {[&](auto& a) { a.w = &plain; }, ErrorCode::kUnsupported,
        "linear: E4M3 activations into float weights"},
       {[&](auto& a) {
          a.w = &odd;
          a.epilogue = Epilogue::kSiluMul;
        },
        ErrorCode::kShapeMismatch, "linear: gate|up of 7 rows"},
       {[](auto& a) { a.epilogue = Epilogue::kSiluMul; }, ErrorCode::kShapeMismatch,
        "linear: y is [3, 6], not [3, 3]"},
       {[](auto& a) {
          a.residual = Of(DType::kF32, {3, 6});
        },
        ErrorCode::kInvalidArgument, "linear: residual is F32, not BF16"},
       {[](auto& a) { a.residual = {}; }, ErrorCode::kInvalidArgument,
        "linear: residual is missing"}});
}

// Two sequences of 1 and 2 new tokens with 70 and 2 in their caches; 4 heads over 2 KV heads of 16.
BatchView TwoSequences() {
  BatchView batch;
  batch.num_tokens = 3;
  batch.num_sequences = 2;
  batch.positions = I32({69, 0, 1}, {3});
  batch.query_start = I32({0, 1, 3}, {3});
  batch.context_len = I32({70, 2}, {2});
  batch.page_table = I32({0, 2, 1, -1}, {2, 2});
  return batch;
}

KvLayer ThreePages() {
  KvLayer kv;
  kv.layout.kv_heads = 2;
  kv.layout.head_dim = 16;
  kv.pages = Of(DType::kU8, {3, kv.layout.page_bytes()});
  return kv;
}

ActTensor Query() { return {Of(DType::kE4M3, {3, 64}), Of(DType::kF32, {3, 4}), {}}; }

TEST(Validate, RopeKvWrite) {
  BatchView batch;
  ExpectRefusals<RopeKvWriteArgs>(
      [&] {
        batch = TwoSequences();
        RopeKvWriteArgs args;
        args.qkv = Of(DType::kBF16, {3, 128});
        args.batch = &batch;
        args.rope_cos = args.rope_sin = Of(DType::kF32, {70, 8});
        args.crs_q = Of(DType::kF32, {2, 16});
        args.num_heads = 4;
        args.q = Query();
        args.kv = ThreePages();
        return args;
      },
      {{[](auto& a) { a.num_heads = 5; }, ErrorCode::kShapeMismatch, "5 heads over 2 KV heads"},
       {[](auto& a) { a.kv.layout.head_dim = 12; }, ErrorCode::kUnsupported, "head_dim 12"},
       {[](auto& a) {
          a.kv.pages = Of(DType::kU8, {3, 5});
        },
        ErrorCode::kShapeMismatch, "rope_kv_write: pages is [3, 5]"},
       {[](auto& a) { a.batch = nullptr; }, ErrorCode::kInvalidArgument, "batch is missing"},
       {[](auto& a) {
          a.qkv = Of(DType::kBF16, {3, 127});
        },
        ErrorCode::kShapeMismatch, "qkv is [3, 127], not [3, 128]"},
       {[](auto& a) {
          a.rope_cos = a.rope_sin = Of(DType::kF32, {69, 8});
        },
        ErrorCode::kInvalidArgument, "positions[0] = 69 is not in [0, 69)"},
       {[](auto& a) {
          a.rope_sin = Of(DType::kF32, {71, 8});
        },
        ErrorCode::kShapeMismatch, "rope_sin is [71, 8], not [70, 8]"},
       {[](auto& a) { a.q_norm = Of(DType::kF32, {8}); }, ErrorCode::kShapeMismatch, "q_norm"},
       {[](auto& a) { a.k_norm = Of(DType::kBF16, {16}); }, ErrorCode::kInvalidArgument, "k_norm"},
       {[](auto& a) {
          a.crs_k = Of(DType::kF32, {1, 16});
        },
        ErrorCode::kShapeMismatch, "crs_k"},
       {[](auto& a) { a.q.scale = Of(DType::kF32, {3}); }, ErrorCode::kShapeMismatch, "q scale"},
       {[](auto& a) {
          a.q = {.values = Of(DType::kBF16, {3, 64})};
        },
        ErrorCode::kInvalidArgument, "rope_kv_write: q is BF16, not F32"}});
}

TEST(Validate, HadamardNeedsAPowerOfTwo) {
  BatchView batch = TwoSequences();
  RopeKvWriteArgs args;
  args.kv = ThreePages();
  args.kv.layout.head_dim = 24;
  args.kv.pages = Of(DType::kU8, {3, args.kv.layout.page_bytes()});
  args.qkv = Of(DType::kBF16, {3, 8 * 24});
  args.batch = &batch;
  args.rope_cos = args.rope_sin = Of(DType::kF32, {70, 12});
  args.num_heads = 4;
  args.q = {Of(DType::kE4M3, {3, 96}), Of(DType::kF32, {3, 4}), {}};
  EXPECT_NO_THROW(Validate(args));
  args.qk_hadamard = true;
  EXPECT_THAT(ErrorOf([&] { Validate(args); }, ErrorCode::kUnsupported),
              HasSubstr("Hadamard of head_dim 24"));
}

TEST(Validate, Attention) {
  BatchView batch;
  ExpectRefusals<AttentionArgs>(
      [&] {
        batch = TwoSequences();
        return AttentionArgs{.q = Query(),
                             .kv = ThreePages(),
                             .batch = &batch,
                             .num_heads = 4,
                             .out = Of(DType::kBF16, {3, 64})};
      },
      {{[&](auto&) {
          batch.query_start = I32({1, 1, 3}, {3});
        },
        ErrorCode::kInvalidArgument, "query_start runs from 1 to 3, not 0 to at most 3"},
       {[&](auto&) {
          batch.query_start = I32({0, 1, 4}, {3});
        },
        ErrorCode::kInvalidArgument, "from 0 to 4, not 0 to at most 3"},
       {[&](auto&) {
          batch.query_start = I32({0, 4, 3}, {3});
        },
        ErrorCode::kInvalidArgument, "sequence 1 has -1 tokens"},
       {[&](auto&) {
          batch.query_start = I32({0, 1}, {2});
        },
        ErrorCode::kShapeMismatch, "query_start is [2], not [3]"},
       {[&](auto&) {
          batch.context_len = I32({70, 1}, {2});
        },
        ErrorCode::kInvalidArgument, "sequence 1 has 2 tokens and context 1"},
       {[&](auto&) {
          batch.context_len = I32({200, 2}, {2});
        },
        ErrorCode::kInvalidArgument, "context 200 of sequence 0 needs 4 pages of 2"},
       {[&](auto&) {
          batch.page_table = I32({0, 3, 1, -1}, {2, 2});
        },
        ErrorCode::kInvalidArgument, "page_table[0, 1] = 3 is not in [0, 3)"},
       {[](auto& a) {
          a.out = Of(DType::kE4M3, {3, 64});
        },
        ErrorCode::kInvalidArgument, "attention: out is F8_E4M3"},
       {[](auto& a) { a.q.values = {}; }, ErrorCode::kInvalidArgument, "attention: q is missing"}});
}

TEST(Validate, Sample) {
  constexpr int64_t kParams = sizeof(SampleRowParams);
  const auto valid = [] {
    SampleArgs args{.logits = Of(DType::kF32, {2, 5}), .params = Of(DType::kU8, {2, kParams})};
    args.history = I32({4, 0, 1}, {3});
    args.max_logprobs = 3;
    args.out = Of(DType::kI32, {2, kSampleHead + 6});
    args.ids = Of(DType::kI32, {2});
    return args;
  };
  ExpectRefusals<SampleArgs>(
      valid, {{[](auto& a) {
                 a.logits = Of(DType::kBF16, {2, 5});
               },
               ErrorCode::kInvalidArgument, "sample: logits is BF16, not F32"},
              {[](auto& a) {
                 a.params = Of(DType::kU8, {1, kParams});
               },
               ErrorCode::kShapeMismatch, "sample: params is [1, "},
              {[](auto& a) { a.max_logprobs = -1; }, ErrorCode::kInvalidArgument,
               "up to -1 log-probabilities"},
              {[](auto& a) { a.max_logprobs = 4; }, ErrorCode::kShapeMismatch,
               "out is [2, 8], not [2, 10]"},
              {[](auto& a) { a.ids = Of(DType::kI32, {3}); }, ErrorCode::kShapeMismatch,
               "ids is [3], not [2]"},
              {[](auto& a) {
                 a.history = I32({0, 5}, {2});
               },
               ErrorCode::kInvalidArgument, "history[1] = 5 is not in [0, 5)"},
              {[](auto& a) {
                 a.history = I32({-1, 0}, {2});
               },
               ErrorCode::kInvalidArgument, "history[0] = -1 is not in [0, 5)"}});
}

// Where a backend's own logits are F16, these and F32 fit; elsewhere F32 alone. A linear may make
// BF16, too, and with an epilogue no logits.
TEST(Validate, LogitsOfABackendsOwnType) {
  const auto accepts = [](const auto& args, auto... logits) {
    try {
      Validate(args, logits...);
      return true;
    } catch (const Error&) {
      return false;
    }
  };
  const Prepared weights(6, 200, true);
  for (const DType type : {DType::kF32, DType::kF16, DType::kBF16}) {
    const SampleArgs sample{.logits = Of(type, {2, 5}),
                            .params = Of(DType::kU8, {2, int64_t{sizeof(SampleRowParams)}}),
                            .out = Of(DType::kI32, {2, kSampleHead})};
    EXPECT_EQ(accepts(sample), type == DType::kF32);
    EXPECT_EQ(accepts(sample, DType::kF16), type != DType::kBF16);
    LinearArgs linear{.x = Codes(3, 200), .w = &weights, .y = Of(type, {3, 6})};
    EXPECT_EQ(accepts(linear), type != DType::kF16);
    EXPECT_TRUE(accepts(linear, DType::kF16));
    linear.epilogue = Epilogue::kResidual;
    linear.residual = linear.y;
    EXPECT_EQ(accepts(linear, DType::kF16), type != DType::kF16);
  }
}

TEST(Validate, TheLargestBesideLogitsAndInsteadOfThem) {
  const auto refused = [](const LinearArgs& args) {
    try {
      Validate(args);
      return false;
    } catch (const Error&) {
      return true;
    }
  };
  const Prepared weights(6, 200, true);
  for (const bool logits : {true, false}) {
    LinearArgs linear{.x = Codes(3, 200),
                      .w = &weights,
                      .y = logits ? Of(DType::kF32, {3, 6}) : Tensor(),
                      .largest = Of(DType::kI32, {3})};
    EXPECT_FALSE(refused(linear));
    linear.epilogue = Epilogue::kSiluMul;
    EXPECT_TRUE(refused(linear));
    linear.epilogue = Epilogue::kNone;
    linear.largest = Of(DType::kI32, {2});
    EXPECT_TRUE(refused(linear));
    linear.largest = {};
    EXPECT_EQ(refused(linear), !logits);
  }
}

TEST(Validate, RandomLinearSpec) {
  const auto valid = [] { return RandomLinearSpec{.part_rows = {6, 6}, .k = 200}; };
  ExpectRefusals<RandomLinearSpec>(
      valid,
      {{[](auto& s) { s.part_rows.clear(); }, ErrorCode::kInvalidArgument, "0 parts"},
       {[](auto& s) { s.k = 0; }, ErrorCode::kInvalidArgument, "of 0 columns"},
       {[](auto& s) { s.part_rows[1] = 0; }, ErrorCode::kInvalidArgument, "of 0 rows"},
       {[](auto& s) { s.form = WeightForm::kBf16; }, ErrorCode::kInvalidArgument, "of 2 parts"}});
}

TEST(Validate, CopyAndGatherRows) {
  const Tensor x = Of(DType::kF32, {4, 3});
  EXPECT_NO_THROW(ValidateCopy(x, Of(DType::kF32, {12})));
  EXPECT_THAT(ErrorOf([&] { ValidateCopy(x, {}); }, ErrorCode::kInvalidArgument),
              HasSubstr("copy: a tensor is missing"));
  EXPECT_THAT(ErrorOf(
                  [&] {
                    ValidateCopy(x, Of(DType::kF32, {4, 2}));
                  },
                  ErrorCode::kShapeMismatch),
              HasSubstr("F32 [4, 3] to F32 [4, 2]"));
  EXPECT_THAT(ErrorOf(
                  [&] {
                    ValidateCopy(x, Of(DType::kI32, {4, 3}));
                  },
                  ErrorCode::kShapeMismatch),
              HasSubstr("to I32"));

  const Tensor rows = I32({3, 0}, {2});
  const Tensor out = Of(DType::kF32, {2, 3});
  EXPECT_NO_THROW(ValidateGatherRows(x, rows, out));
  EXPECT_THAT(ErrorOf(
                  [&] {
                    ValidateGatherRows(x, I32({4, 0}, {2}), out);
                  },
                  ErrorCode::kInvalidArgument),
              HasSubstr("gather_rows: rows[0] = 4 is not in [0, 4)"));
  EXPECT_THAT(ErrorOf([&] { ValidateGatherRows({}, rows, out); }, ErrorCode::kInvalidArgument),
              HasSubstr("x is missing"));
  EXPECT_THAT(ErrorOf(
                  [&] {
                    ValidateGatherRows(x, rows, Of(DType::kF32, {3, 3}));
                  },
                  ErrorCode::kShapeMismatch),
              HasSubstr("out is [3, 3], not [2, 3]"));
}

}  // namespace
}  // namespace fireq
