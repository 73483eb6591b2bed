#include "fireq/backends/cpu/linear.h"

#include <algorithm>
#include <type_traits>

namespace fireq::cpu {
namespace {

constexpr int64_t kBlockTokens = 256;  // rows of x that one expansion of a panel serves
constexpr int64_t kBlockDepth = 1024;  // of K in a panel: 128 KB of BF16, half of a usual L2
constexpr int64_t kDotColumns = 32;    // weight rows of one `dot` call; a SiLU tile has two of them
constexpr int64_t kDotStride = 2 * kDotColumns;

// Up to 64 output columns, or 32 of gate with the same 32 of up.
struct Tile {
  int part = 0;       // of CpuLinear::parts(); gate for SiLU
  int64_t begin = 0;  // first row in the part
  int64_t count = 0;
};

std::vector<Tile> MakeTiles(const CpuLinear& w, bool silu, int64_t columns) {
  std::vector<Tile> tiles;
  const int num_parts = silu ? 1 : static_cast<int>(w.parts().size());
  for (int p = 0; p < num_parts; ++p) {
    const int64_t n = w.parts()[static_cast<size_t>(p)].n;
    for (int64_t begin = 0; begin < n; begin += columns) {
      tiles.push_back({p, begin, std::min(columns, n - begin)});
    }
  }
  return tiles;
}

// One call: operands of the activations and where results go.
template <class T>
class LinearRun {
 public:
  LinearRun(Context& context, const GemmKernels<T>& kernels, const LinearArgs& args)
      : context_(context),
        kernels_(kernels),
        args_(args),
        w_(static_cast<const CpuLinear&>(*args.w)),
        num_tokens_(args.x.values.dim(0)),
        silu_(args.epilogue == Epilogue::kSiluMul) {
    const bool table = ResolveProducts(args.products, num_tokens_) == Products::kTable;
    if constexpr (std::is_same_v<T, bf16_t>) {
      products_ = (table ? context.words_table : context.words_exact).data();
    } else {
      products_ = (table ? context.bytes_table : context.bytes_exact).data();
    }
  }

  void Run() {
    // `dot` and `panel` sum in different orders.
    const bool dots = num_tokens_ <= kMaxDotTokens && args_.reduction == Reduction::kFastest;
    if (dots && InDigits()) {
      RunDigits();
      return;
    }
    LoadOperands();
    if (dots) {
      RunDots();
    } else {
      RunPanels();
    }
  }

 private:
  bool InDigits() const {
    return context_.digits != nullptr && w_.quantized() && args_.x.values.dtype() == DType::kE4M3 &&
           ResolveProducts(args_.products, num_tokens_) == Products::kExact;
  }

  // x to operands [T, padded K], in split order where INT4 weights wait for it.
  void LoadOperands() {
    const int64_t k = w_.k();
    lda_ = w_.padded_k();
    T* out = context_.operands.Get<T>(num_tokens_ * lda_);
    operands_ = out;
    const Tensor& x = args_.x.values;
    const bool split = w_.quantized();
    context_.pool.ParallelFor(num_tokens_, 16, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        if (x.dtype() == DType::kE4M3) {
          kernels_.load_e4m3(x.as<e4m3_t>() + i * k, k, split, out + i * lda_);
        } else if (x.dtype() == DType::kI8) {
          LoadInt8(x.as<int8_t>() + i * k, k, out + i * lda_);
        } else if (x.dtype() == DType::kBF16) {
          kernels_.load_bf16(x.as<bf16_t>() + i * k, k, split, out + i * lda_);
        } else {
          kernels_.load_f32(x.as<float>() + i * k, k, split, out + i * lda_);
        }
      }
    });
  }

  // Whole numbers of 7 bits, exact in either operand type. Their weights are float: K in order.
  void LoadInt8(const int8_t* x, int64_t k, T* out) const {
    for (int64_t i = 0; i < k; ++i) {
      if constexpr (std::is_same_v<T, bf16_t>) {
        out[i] = FloatToBf16(x[i]);
      } else {
        out[i] = x[i];
      }
    }
    std::fill(out + k, out + lda_, T{0});
  }

  const LinearRows& part(int i) const { return w_.parts()[static_cast<size_t>(i)]; }

  WeightRows RowsOf(const LinearRows& p, int64_t begin) const {
    WeightRows rows = p.rows.From(begin);
    rows.products = products_;
    return rows;
  }

  void RunDots() {
    RunDotTiles([this](const WeightRows& rows, int64_t count, float* sums) {
      kernels_.dot(rows, count, lda_, operands_, lda_, num_tokens_, sums, kDotStride);
    });
  }

  void RunDigits() {
    const int64_t k = w_.padded_k();
    const std::vector<DigitRow> x = DigitRows(k);
    const auto* codes = args_.x.values.as<e4m3_t>();
    context_.pool.ParallelFor(num_tokens_, 2, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        context_.digits->load(codes + i * w_.k(), w_.k(), k, DigitOrder::kSplit,
                              x[static_cast<size_t>(i)]);
      }
    });
    RunDotTiles([&](const WeightRows& rows, int64_t count, float* sums) {
      for (const DigitRow& row : x) {
        context_.digits->dot(rows, count, k, row, sums);
        sums += kDotStride;
      }
    });
  }

  // Room for the call's activations.
  std::vector<DigitRow> DigitRows(int64_t k) {
    auto* bytes = context_.digit_rows.Get<int8_t>(num_tokens_ * DigitRow::SizeBytes(k));
    std::vector<DigitRow> rows;
    for (int64_t i = 0; i < num_tokens_; ++i) {
      rows.push_back(DigitRow::In(bytes + i * DigitRow::SizeBytes(k), k));
    }
    return rows;
  }

  // dot(weight rows, how many, sums [tokens][kDotStride]) for all rows, then the epilogue.
  template <class Dot>
  void RunDotTiles(const Dot& dot) {
    const std::vector<Tile> tiles = MakeTiles(w_, silu_, kDotColumns);
    context_.pool.ParallelFor(static_cast<int64_t>(tiles.size()), 1,
                              [&](int64_t begin, int64_t end, int) {
                                alignas(64) float sums[kMaxDotTokens * kDotStride];
                                for (int64_t i = begin; i < end; ++i) {
                                  const Tile& tile = tiles[static_cast<size_t>(i)];
                                  for (int half = 0; half < (silu_ ? 2 : 1); ++half) {
                                    dot(RowsOf(part(tile.part + half), tile.begin), tile.count,
                                        sums + half * kDotColumns);
                                  }
                                  StoreTile(tile, 0, num_tokens_, sums, kDotStride, kDotColumns);
                                }
                              });
  }

  void RunPanels() {
    const std::vector<Tile> tiles = MakeTiles(w_, silu_, silu_ ? kPanelColumns / 2 : kPanelColumns);
    const int64_t num_tiles = static_cast<int64_t>(tiles.size());
    const int64_t blocks = CeilDiv(num_tokens_, kBlockTokens);
    context_.pool.ParallelFor(num_tiles * blocks, 1, [&](int64_t begin, int64_t end, int thread) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t token = i / num_tiles * kBlockTokens;
        RunPanelTile(tiles[static_cast<size_t>(i % num_tiles)], token,
                     std::min(kBlockTokens, num_tokens_ - token), thread);
      }
    });
  }

  void RunPanelTile(const Tile& tile, int64_t token, int64_t count, int thread) {
    ThreadScratch& scratch = context_.threads[static_cast<size_t>(thread)];
    T* panel = scratch.panel.Get<T>(std::min(lda_, kBlockDepth) * kPanelColumns);
    float* sums = scratch.sums.Get<float>(kBlockTokens * kPanelColumns);
    const int halves = silu_ ? 2 : 1;
    const int64_t columns = kPanelColumns / halves;
    for (int64_t k = 0; k < lda_; k += kBlockDepth) {
      const int64_t depth = std::min(kBlockDepth, lda_ - k);
      for (int half = 0; half < halves; ++half) {
        kernels_.expand(RowsOf(part(tile.part + half), tile.begin), tile.count, k, depth,
                        half * columns, columns, panel);
      }
      kernels_.panel(operands_ + token * lda_ + k, lda_, panel, depth, count, sums, kPanelColumns,
                     k > 0);
    }
    StoreTile(tile, token, count, sums, kPanelColumns, columns);
  }

  float RowScale(int64_t token, const LinearRows& p) const {
    const Tensor& scale = args_.x.scale;
    return (scale.defined() ? scale.as<float>()[token] : 1.0f) * p.inv_t;
  }

  // sums [count][row stride], `up` of a SiLU tile `offset` columns after its gate.
  void StoreTile(const Tile& tile, int64_t token, int64_t count, float* sums, int64_t stride,
                 int64_t offset) {
    const LinearRows& p = part(tile.part);
    const int64_t column = p.begin + tile.begin;
    const int64_t width = silu_ ? w_.n() / 2 : w_.n();
    const int64_t size = SizeBytes(args_.y.dtype());
    EpilogueRow row;
    row.bf16 = args_.y.dtype() == DType::kBF16;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t at = (token + i) * width + column;
      float* values = sums + i * stride;
      row.y = static_cast<uint8_t*>(args_.y.data()) + at * size;
      if (silu_) {
        ScalePart(p, tile, token + i, values);
        ScalePart(part(tile.part + 1), tile, token + i, values + offset);
        context_.rows.silu_mul(values, values + offset, tile.count, values);
      } else {
        row.scale = RowScale(token + i, p);
        row.bias = p.bias.defined() ? p.bias.as<float>() + tile.begin : nullptr;
        if (args_.epilogue == Epilogue::kResidual) {
          row.residual = static_cast<const uint8_t*>(args_.residual.data()) + at * size;
        }
      }
      context_.rows.epilogue(values, tile.count, row);
    }
  }

  void ScalePart(const LinearRows& p, const Tile& tile, int64_t token, float* values) {
    context_.rows.scale_bias(values, tile.count, RowScale(token, p),
                             p.bias.defined() ? p.bias.as<float>() + tile.begin : nullptr);
  }

  Context& context_;
  const GemmKernels<T>& kernels_;
  const LinearArgs& args_;
  const CpuLinear& w_;
  const int64_t num_tokens_;
  const bool silu_;
  const uint16_t* products_ = nullptr;
  const T* operands_ = nullptr;
  int64_t lda_ = 0;
};

}  // namespace

void RunLinear(Context& context, const LinearArgs& args) {
  if (args.x.values.dim(0) == 0) return;
  const auto& w = static_cast<const CpuLinear&>(*args.w);
  const bool exact_in_bf16 = args.x.values.dtype() != DType::kF32 && !w.has_f32();
  if (context.bf16 != nullptr && exact_in_bf16) {
    LinearRun<bf16_t>(context, *context.bf16, args).Run();
  } else {
    LinearRun<float>(context, context.f32, args).Run();
  }
}

}  // namespace fireq::cpu
