// Every op on both backends over the same bytes, and the bytes of the cache themselves.
#include "fireq/backends/sm90/backend/sm90_backend.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <numeric>
#include <random>

#include "fireq/backends/cpu/cpu_backend.h"
#include "fireq/formats/bf16.h"
#include "fireq/formats/e4m3.h"
#include "fireq/formats/kv_page.h"
#include "tests/backends/sm90/needs_hopper.h"

namespace fireq {
namespace {

class TwoBackends : public testing::Test {
 protected:
  void SetUp() override {
    FIREQ_NEEDS_HOPPER();
    cpu_ = MakeCpuBackend();
    gpu_ = MakeSm90Backend();
  }

  Tensor RandomBf16(Shape shape, float spread = 1.0f) {
    std::student_t_distribution<float> dist(5);
    Tensor out = Tensor::Empty(DType::kBF16, std::move(shape));
    for (int64_t i = 0; i < out.num_elements(); ++i)
      out.as<bf16_t>()[i] = FloatToBf16(spread * dist(rng_));
    return out;
  }
  Tensor RandomF32(Shape shape, float low, float high) {
    std::uniform_real_distribution<float> dist(low, high);
    Tensor out = Tensor::Empty(DType::kF32, std::move(shape));
    for (int64_t i = 0; i < out.num_elements(); ++i) out.as<float>()[i] = dist(rng_);
    return out;
  }
  // Where tokens made by a linear for itself lie: what the next one does not write is NaN.
  void LeaveNaNsInSharedMemory() {
    constexpr int64_t kColumns = 5120;
    if (!nan_weight_) {
      nan_weight_ = gpu_->PrepareRandom({.part_rows = {132 * 64}, .k = kColumns});
      nan_codes_ = Activation(*gpu_, 1, kColumns);  // kept: codes left to a reader have a place
    }
    gpu_->Quantize({.x = Poisoned(*gpu_, DType::kBF16, {1, kColumns}), .out = nan_codes_});
    gpu_->Linear({.x = nan_codes_,
                  .w = nan_weight_.get(),
                  .products = Products::kExact,
                  .y = gpu_->Allocate(DType::kBF16, {1, nan_weight_->n()})});
  }
  // Poisoned memory of `backend`: what an op leaves unwritten is NaN.
  static Tensor Poisoned(Backend& backend, DType dtype, Shape shape) {
    Tensor host = Tensor::Empty(dtype, std::move(shape));
    std::memset(host.data(), 0xFF, static_cast<size_t>(host.size_bytes()));
    return backend.Upload(host);
  }
  static ActTensor Activation(Backend& backend, int64_t rows, int64_t k) {
    return {Poisoned(backend, DType::kE4M3, {rows, k}), Poisoned(backend, DType::kF32, {rows}),
            Poisoned(backend, DType::kF32, {rows, CeilDiv<int64_t>(k, kGroup)})};
  }

  static std::vector<float> Floats(Backend& backend, const Tensor& tensor) {
    const Tensor host = backend.Download(tensor);
    std::vector<float> out(static_cast<size_t>(host.num_elements()));
    for (size_t i = 0; i < out.size(); ++i) {
      if (host.dtype() == DType::kF32) out[i] = host.as<float>()[i];
      if (host.dtype() == DType::kBF16) out[i] = Bf16ToFloat(host.as<bf16_t>()[i]);
      if (host.dtype() == DType::kE4M3) out[i] = E4M3ToFloat(host.as<e4m3_t>()[i]);
    }
    return out;
  }
  // ||a - b|| / ||a||; NaN if either has one.
  double RelativeError(const Tensor& cpu, const Tensor& gpu) {
    const auto a = Floats(*cpu_, cpu);
    const auto b = Floats(*gpu_, gpu);
    EXPECT_EQ(a.size(), b.size());
    double error = 0, norm = 0;
    for (size_t i = 0; i < a.size(); ++i) {
      error += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
      norm += double{a[i]} * a[i];
    }
    return std::sqrt(error / norm);
  }

  WeightI4 RandomWeight(int64_t n, int64_t k) {
    const WeightI4Layout layout{n, k};
    WeightI4 out{Tensor::Empty(DType::kU8, {n, layout.code_bytes_per_row()}),
                 Tensor::Empty(DType::kE4M3, {n, layout.groups()}),
                 Tensor::Empty(DType::kU8, {n, layout.groups()}),
                 4.0f,
                 n,
                 k};
    for (int64_t i = 0; i < layout.code_bytes(); ++i)
      out.codes.as<uint8_t>()[i] = static_cast<uint8_t>(rng_());
    for (int64_t i = 0; i < layout.scale_bytes(); ++i) {
      const float sign = rng_() % 2 == 0 ? 1.0f : -1.0f;
      out.scale.as<e4m3_t>()[i] = FloatToE4M3(sign * 0.01f * static_cast<float>(1 + rng_() % 20));
      out.zero.as<uint8_t>()[i] = static_cast<uint8_t>(rng_() % 3 == 0 ? rng_() % 16 : 8);
    }
    return out;
  }

  std::mt19937 rng_{20260101};
  std::unique_ptr<Backend> cpu_, gpu_;
  std::shared_ptr<const PreparedLinear> nan_weight_;
  ActTensor nan_codes_;
};

TEST_F(TwoBackends, NormQuantiseAndEmbed) {
  for (const int64_t rows : {1, 7, 130}) {
    const int64_t d = 576;
    const Tensor x = RandomBf16({rows, d});
    const Tensor weight = RandomF32({d}, 0.5f, 1.5f);
    for (const bool norm : {true, false}) {
      const ActTensor a = Activation(*cpu_, rows, d), b = Activation(*gpu_, rows, d);
      if (norm) {
        cpu_->RmsNorm({.x = x, .weight = weight, .eps = 1e-5f, .out = a});
        gpu_->RmsNorm(
            {.x = gpu_->Upload(x), .weight = gpu_->Upload(weight), .eps = 1e-5f, .out = b});
      } else {
        cpu_->Quantize({.x = x, .out = a});
        gpu_->Quantize({.x = gpu_->Upload(x), .out = b});
      }
      EXPECT_LT(RelativeError(a.scale, b.scale), 1e-6);
      EXPECT_LT(RelativeError(a.values, b.values), 1e-3);  // a code may fall on the other side
      EXPECT_LT(RelativeError(a.sums, b.sums), 1e-3);
    }
    const Tensor plain = Poisoned(*gpu_, DType::kBF16, {rows, d});
    const Tensor expected = Poisoned(*cpu_, DType::kBF16, {rows, d});
    cpu_->RmsNorm({.x = x, .weight = weight, .eps = 1e-5f, .out = {expected, {}, {}}});
    gpu_->RmsNorm({.x = gpu_->Upload(x),
                   .weight = gpu_->Upload(weight),
                   .eps = 1e-5f,
                   .out = {plain, {}, {}}});
    EXPECT_LT(RelativeError(expected, plain), 1e-4);

    std::vector<int32_t> ids(static_cast<size_t>(rows));
    for (int32_t& id : ids) id = static_cast<int32_t>(rng_() % 100);
    const Tensor id_tensor = Tensor::FromVector(DType::kI32, {rows}, ids);
    const Tensor table = RandomBf16({100, d});
    const Tensor to = Poisoned(*gpu_, DType::kBF16, {rows, d});
    gpu_->Embed({.ids = gpu_->Upload(id_tensor), .table = gpu_->Upload(table), .out = to});
    cpu_->Embed({.ids = id_tensor, .table = table, .out = expected});
    EXPECT_EQ(RelativeError(expected, to), 0.0);
    const Tensor chosen = Tensor::FromVector<int32_t>(DType::kI32, {3}, {7, -1, 42});
    for (size_t i = 0; i < ids.size(); i += 2) id_tensor.as<int32_t>()[i] = ~(ids[i] % 3);
    gpu_->Embed({.ids = gpu_->Upload(id_tensor),
                 .table = gpu_->Upload(table),
                 .chosen = gpu_->Upload(chosen),
                 .out = to});
    cpu_->Embed({.ids = id_tensor, .table = table, .chosen = chosen, .out = expected});
    EXPECT_EQ(RelativeError(expected, to), 0.0);
  }
}

TEST_F(TwoBackends, LinearsOfEveryEpilogueAndProduct) {
  const int64_t k = 576;
  struct Case {
    Epilogue epilogue;
    std::vector<int64_t> parts;
  };
  for (const Case& c : {Case{Epilogue::kNone, {576, 192, 192}}, Case{Epilogue::kResidual, {576}},
                        Case{Epilogue::kSiluMul, {1536, 1536}}}) {
    LinearSpec spec;
    for (const int64_t n : c.parts) spec.parts.push_back({.name = "w", .i4 = RandomWeight(n, k)});
    spec.gate_up = c.epilogue == Epilogue::kSiluMul;
    const auto cpu_w = cpu_->Prepare(spec);
    const auto gpu_w = gpu_->Prepare(spec);
    const int64_t n = spec.gate_up ? cpu_w->n() / 2 : cpu_w->n();
    for (const int64_t rows : {1, 5, 33, 129, 700}) {
      const Tensor x = RandomBf16({rows, k});
      const ActTensor a = Activation(*cpu_, rows, k);
      cpu_->Quantize({.x = x, .out = a});
      const ActTensor b{gpu_->Upload(a.values), gpu_->Upload(a.scale), gpu_->Upload(a.sums)};
      const Tensor residual = RandomBf16({rows, n});
      for (const Products products : {Products::kExact, Products::kTable}) {
        LinearArgs args{.x = a, .w = cpu_w.get(), .epilogue = c.epilogue, .products = products};
        if (c.epilogue == Epilogue::kResidual) args.residual = residual;
        args.y = Poisoned(*cpu_, DType::kBF16, {rows, n});
        cpu_->Linear(args);
        const Tensor expected = args.y;
        args.x = b;
        args.w = gpu_w.get();
        args.y = Poisoned(*gpu_, DType::kBF16, {rows, n});
        if (args.residual.defined()) args.residual = gpu_->Upload(residual);
        gpu_->Linear(args);
        // The table's sums are the tensor core's, with its shorter accumulator.
        EXPECT_LT(RelativeError(expected, args.y), products == Products::kExact ? 2e-3 : 6e-3)
            << "rows " << rows << " epilogue " << static_cast<int>(c.epilogue);
      }
    }
  }
}

// A norm or a token quantisation with the linear behind it, which makes few rows' codes for itself.
TEST_F(TwoBackends, LinearsBehindTheirCodes) {
  struct Case {
    int64_t rows, k;
    std::vector<int64_t> parts;
    bool gate_up;
  };
  for (const Case& c :
       {Case{1, 4096, {2048, 512, 512}, false}, Case{4, 4096, {512, 512}, true},
        Case{1, 4096, {14336, 14336}, true},  // tuned: tiles of 256 rows
        Case{3, 1152, {128}, false}, Case{1, 14336, {4096}, false}, Case{2, 5120, {640}, false},
        Case{1, 640, {192}, false}, Case{1, 3584, {320}, false}, Case{2, 576, {192}, false},
        Case{9, 4096, {192}, false}}) {
    LinearSpec spec;
    for (const int64_t n : c.parts) spec.parts.push_back({.name = "w", .i4 = RandomWeight(n, c.k)});
    spec.gate_up = c.gate_up;
    const auto on_cpu = cpu_->Prepare(spec), on_gpu = gpu_->Prepare(spec);
    const int64_t width = c.gate_up ? c.parts[0] : on_cpu->n();
    const Tensor weight = RandomF32({c.k}, 0.5f, 1.5f);
    const Tensor weight_on_gpu = gpu_->Upload(weight);
    for (const bool norm : {true, false}) {
      const Tensor x = RandomBf16({c.rows, c.k}, 3.0f), residual = RandomBf16({c.rows, width});
      const auto run = [&](Backend& backend, const PreparedLinear& w, const Tensor& norm_weight) {
        const ActTensor codes = Activation(backend, c.rows, c.k);
        const Tensor y = Poisoned(backend, DType::kBF16, {c.rows, width});
        const Tensor from = backend.Upload(x), add = backend.Upload(residual);
        if (norm) {
          backend.RmsNorm({.x = from, .weight = norm_weight, .eps = 1e-5f, .out = codes});
        } else {
          backend.Quantize({.x = from, .out = codes});
        }
        // Twice: what is made for one reader can be had again.
        for (int i = 0; i < 2; ++i)
          backend.Linear({.x = codes,
                          .w = &w,
                          .epilogue = c.gate_up ? Epilogue::kSiluMul : Epilogue::kResidual,
                          .products = Products::kExact,
                          .residual = c.gate_up ? Tensor() : add,
                          .y = y});
        return y;
      };
      const Tensor expected = run(*cpu_, *on_cpu, weight);
      LeaveNaNsInSharedMemory();
      const Tensor got = run(*gpu_, *on_gpu, weight_on_gpu);
      EXPECT_LT(RelativeError(expected, got), 3e-3)
          << c.rows << " x " << c.k << (norm ? " normed" : "");
    }
  }
}

TEST_F(TwoBackends, CodesLeftToAReaderAreNotReadLater) {
  LinearSpec spec;
  spec.parts.push_back({.name = "w", .i4 = RandomWeight(128, 512)});
  const auto w = gpu_->Prepare(spec);
  const ActTensor codes = Activation(*gpu_, 1, 512);
  const Tensor x = gpu_->Upload(RandomBf16({1, 512})), y = gpu_->Upload(RandomBf16({1, 128}));
  const LinearArgs linear{.x = codes, .w = w.get(), .products = Products::kExact, .y = y};
  gpu_->Quantize({.x = x, .out = codes});
  gpu_->Linear(linear);
  gpu_->Synchronize();
  EXPECT_THROW(gpu_->Linear(linear), Error);
  EXPECT_THROW(gpu_->Download(codes.values), Error);
  gpu_->Quantize({.x = x, .out = codes});
  EXPECT_NO_THROW(gpu_->Download(codes.values));
  EXPECT_NO_THROW(gpu_->Linear(linear));
}

// Behind gate and up rows are quantised before the GEMM has ended: the same codes as later, whether
// or not what was announced before has been read.
TEST_F(TwoBackends, HiddenRowsAreQuantisedAsTheyCome) {
  constexpr int64_t kRows = 1000, kHidden = 512, kFfn = 4096;
  LinearSpec spec;
  for (int i = 0; i < 2; ++i)
    spec.parts.push_back({.name = "w", .i4 = RandomWeight(kFfn, kHidden)});
  spec.gate_up = true;
  const auto w = gpu_->Prepare(spec);
  const ActTensor input = Activation(*gpu_, kRows, kHidden), codes = Activation(*gpu_, kRows, kFfn),
                  later = Activation(*gpu_, kRows, kFfn);
  for (const int linears : {1, 2, 1}) {
    const Tensor x = gpu_->Upload(RandomBf16({kRows, kHidden}));
    const Tensor y = Poisoned(*gpu_, DType::kBF16, {kRows, kFfn});
    gpu_->Quantize({.x = x, .out = input});
    for (int i = 0; i < linears; ++i)
      gpu_->Linear({.x = input, .w = w.get(), .epilogue = Epilogue::kSiluMul, .y = y});
    gpu_->Quantize({.x = y, .out = codes});
    gpu_->Synchronize();
    gpu_->Quantize({.x = y, .out = later});
    EXPECT_EQ(Floats(*gpu_, codes.values), Floats(*gpu_, later.values));
    EXPECT_EQ(Floats(*gpu_, codes.scale), Floats(*gpu_, later.scale));
    EXPECT_EQ(Floats(*gpu_, codes.sums), Floats(*gpu_, later.sums));
  }
}

struct CacheCase {
  int64_t head_dim, heads, kv_heads;
  KvGrid grid;
  bool norm, crs, hadamard;
};

// Three steps of ragged sequences: cache bytes, queries and attention after each.
TEST_F(TwoBackends, CacheBytesQueriesAndAttention) {
  for (const CacheCase& c : {CacheCase{64, 9, 3, KvGrid::kAsymmetric, false, true, false},
                             CacheCase{128, 8, 2, KvGrid::kSymmetric, true, false, true},
                             CacheCase{128, 4, 4, KvGrid::kSigned, false, false, false}}) {
    const KvPageLayout layout{c.grid, static_cast<int>(c.kv_heads), static_cast<int>(c.head_dim)};
    const int64_t sequences = 3, max_pages = 8, pages = sequences * max_pages;
    const Tensor cos = RandomF32({512, c.head_dim / 2}, -1, 1);
    const Tensor sin = RandomF32({512, c.head_dim / 2}, -1, 1);
    const Tensor factors = RandomF32({c.kv_heads, c.head_dim}, 0.5f, 2.0f);
    const Tensor norm = RandomF32({c.head_dim}, 0.5f, 1.5f);
    const KvLayer cpu_kv{Poisoned(*cpu_, DType::kU8, {pages, layout.page_bytes()}), layout};
    const KvLayer gpu_kv{Poisoned(*gpu_, DType::kU8, {pages, layout.page_bytes()}), layout};
    const auto poisoned_kv = [&] {
      return KvLayer{Poisoned(*gpu_, DType::kU8, {pages, layout.page_bytes()}), layout};
    };
    const KvLayer fused_kv = poisoned_kv(), first_kv = poisoned_kv(), second_kv = poisoned_kv();
    std::vector<int64_t> lengths(static_cast<size_t>(sequences), 0);
    for (const std::vector<int64_t>& step :
         {std::vector<int64_t>{200, 5, 67}, {1, 1, 1}, {3, 8, 2}, {33, 1, 100}}) {
      BatchView batch;
      std::vector<int32_t> start{0}, context, positions, table(static_cast<size_t>(pages));
      for (size_t s = 0; s < step.size(); ++s) {
        for (int64_t i = 0; i < step[s]; ++i)
          positions.push_back(static_cast<int32_t>(lengths[s] + i));
        lengths[s] += step[s];
        start.push_back(static_cast<int32_t>(positions.size()));
        context.push_back(static_cast<int32_t>(lengths[s]));
        batch.max_query_len = std::max(batch.max_query_len, step[s]);
        batch.max_context = std::max(batch.max_context, lengths[s]);
        batch.query_lens.push_back(static_cast<int32_t>(step[s]));
      }
      // Pages in an order of their own.
      std::iota(table.rbegin(), table.rend(), 0);
      batch.num_sequences = sequences;
      batch.num_tokens = static_cast<int64_t>(positions.size());
      batch.context_lens = context;
      const auto fill = [&](Backend& backend) {
        BatchView out = batch;
        out.ids = out.positions =
            backend.Upload(Tensor::FromVector(DType::kI32, {batch.num_tokens}, positions));
        out.query_start = backend.Upload(Tensor::FromVector(DType::kI32, {sequences + 1}, start));
        out.context_len = backend.Upload(Tensor::FromVector(DType::kI32, {sequences}, context));
        out.page_table =
            backend.Upload(Tensor::FromVector(DType::kI32, {sequences, max_pages}, table));
        return out;
      };
      const Tensor qkv = RandomBf16({batch.num_tokens, (c.heads + 2 * c.kv_heads) * c.head_dim});
      // With `apart` attention finds the queries in memory, else it may make them itself; with
      // `another` layer's, it is not of what was asked for last.
      const auto run = [&](Backend& backend, const KvLayer& kv, ActTensor& q, bool apart = true,
                           const KvLayer* another = nullptr) {
        const BatchView view = fill(backend);
        q = {Poisoned(backend, DType::kE4M3, {view.num_tokens, c.heads * c.head_dim}),
             Poisoned(backend, DType::kF32, {view.num_tokens, c.heads}),
             {}};
        RopeKvWriteArgs args{.qkv = backend.Upload(qkv), .batch = &view};
        args.rope_cos = backend.Upload(cos);
        args.rope_sin = backend.Upload(sin);
        if (c.norm) args.q_norm = args.k_norm = backend.Upload(norm);
        args.norm_eps = 1e-6f;
        if (c.crs) args.crs_q = args.crs_k = backend.Upload(factors);
        args.qk_hadamard = c.hadamard;
        args.num_heads = c.heads;
        args.q = q;
        args.kv = kv;
        const Tensor out = Poisoned(backend, DType::kBF16, {view.num_tokens, c.heads * c.head_dim});
        backend.RopeKvWrite(args);
        if (another != nullptr) {
          args.kv = *another;
          args.q = {Poisoned(backend, DType::kE4M3, q.values.shape()),
                    Poisoned(backend, DType::kF32, q.scale.shape()),
                    {}};
          backend.RopeKvWrite(args);
        }
        if (apart) backend.Synchronize();
        backend.Attention({.q = q,
                           .kv = kv,
                           .batch = &view,
                           .num_heads = c.heads,
                           .e4m3_probs = true,
                           .out = out});
        return out;
      };
      ActTensor cpu_q, gpu_q;
      const Tensor expected = run(*cpu_, cpu_kv, cpu_q);
      const Tensor out = run(*gpu_, gpu_kv, gpu_q);
      EXPECT_LT(RelativeError(cpu_q.scale, gpu_q.scale), 1e-5);
      EXPECT_LT(RelativeError(cpu_q.values, gpu_q.values), 5e-3);
      EXPECT_LT(RelativeError(expected, out), 1e-2);

      // Bytes differ only where a value lies on a rounding edge and the sums before it differ.
      const Tensor gpu_bytes = gpu_->Download(gpu_kv.pages);
      int64_t different = 0;
      for (int64_t i = 0; i < gpu_bytes.size_bytes(); ++i)
        different += gpu_bytes.as<uint8_t>()[i] != cpu_kv.pages.as<uint8_t>()[i];
      EXPECT_LT(static_cast<double>(different) / static_cast<double>(gpu_bytes.size_bytes()), 2e-3);

      ActTensor fused_q, first_q;
      const auto expect_bits = [&](const Tensor& got, const Tensor& wanted) {
        const Tensor on_host = gpu_->Download(got);
        EXPECT_EQ(0, std::memcmp(on_host.data(), wanted.data(),
                                 static_cast<size_t>(wanted.size_bytes())));
      };
      const Tensor apart = gpu_->Download(out);
      expect_bits(run(*gpu_, fused_kv, fused_q, false), apart);
      expect_bits(fused_kv.pages, gpu_bytes);
      expect_bits(run(*gpu_, first_kv, first_q, false, &second_kv), apart);
      expect_bits(first_kv.pages, gpu_bytes);
      expect_bits(second_kv.pages, gpu_bytes);
    }
  }
}

TEST_F(TwoBackends, LogitsOfBf16Weights) {
  LinearSpec spec;
  spec.parts.push_back({.name = "lm_head", .weight = RandomBf16({1000, 576}, 0.05f)});
  const auto cpu_w = cpu_->Prepare(spec);
  const auto gpu_w = gpu_->Prepare(spec);
  for (const int64_t rows : {1, 3, 256}) {
    const Tensor x = RandomBf16({rows, 576});
    const Tensor a = Poisoned(*cpu_, DType::kF32, {rows, 1000});
    const Tensor b = Poisoned(*gpu_, DType::kF32, {rows, 1000});
    cpu_->Linear({.x = {x, {}, {}}, .w = cpu_w.get(), .y = a});
    gpu_->Linear({.x = {gpu_->Upload(x), {}, {}}, .w = gpu_w.get(), .y = b});
    EXPECT_LT(RelativeError(a, b), 1e-5);
    const Tensor largest = Poisoned(*gpu_, DType::kI32, {rows});
    ASSERT_TRUE(gpu_->FindsLargest(*gpu_w));
    gpu_->Linear({.x = {gpu_->Upload(x), {}, {}}, .w = gpu_w.get(), .largest = largest});
    const std::vector<float> logits = Floats(*gpu_, b);
    const Tensor ids = gpu_->Download(largest);
    for (int64_t r = 0; r < rows; ++r) {
      const auto row = logits.begin() + r * 1000;
      EXPECT_EQ(ids.as<int32_t>()[r], std::max_element(row, row + 1000) - row);
    }
  }
}

}  // namespace
}  // namespace fireq
