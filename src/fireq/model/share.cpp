#include "fireq/model/share.h"

#include <cstring>

namespace fireq {
namespace {

int64_t Part(int64_t whole, Share share, const std::string& what) {
  FIREQ_CHECK(share.rank >= 0 && share.rank < share.size, kInvalidArgument, "rank ", share.rank,
              " of ", share.size);
  FIREQ_CHECK(whole % share.size == 0, kUnsupported, what, ": ", whole, " over ", share.size,
              " ranks");
  return whole / share.size;
}

Tensor Columns(const Tensor& whole, Share share, const std::string& what) {
  const int64_t rows = whole.dim(0), columns = Part(whole.dim(1), share, what);
  Tensor out = Tensor::Empty(whole.dtype(), {rows, columns});
  const int64_t bytes = columns * SizeBytes(whole.dtype());
  for (int64_t row = 0; row < rows; ++row) {
    const auto* from =
        static_cast<const uint8_t*>(whole.data()) + (row * share.size + share.rank) * bytes;
    std::memcpy(static_cast<uint8_t*>(out.data()) + row * bytes, from, static_cast<size_t>(bytes));
  }
  return out;
}

}  // namespace

ModelConfig ShareOf(const ModelConfig& whole, Share share) {
  ModelConfig config = whole;
  config.num_heads = Part(whole.num_heads, share, "query heads");
  config.num_kv_heads = Part(whole.num_kv_heads, share, "KV heads");
  config.ffn = Part(whole.ffn, share, "columns of the FFN");
  return config;
}

Tensor RowsOf(const Tensor& whole, Share share) {
  const int64_t rows = Part(whole.dim(0), share, "rows");
  return whole.Rows(rows * share.rank, rows * (share.rank + 1));
}

LinearPart RowsOf(const LinearPart& whole, Share share) {
  if (share.size == 1) return whole;
  LinearPart out = whole;
  if (whole.weight.defined()) out.weight = RowsOf(whole.weight, share);
  if (whole.i4.codes.defined()) {
    out.i4.codes = RowsOf(whole.i4.codes, share);
    out.i4.scale = RowsOf(whole.i4.scale, share);
    out.i4.zero = RowsOf(whole.i4.zero, share);
    out.i4.n = Part(whole.i4.n, share, whole.name);
  }
  if (whole.bias.defined()) out.bias = RowsOf(whole.bias, share);
  return out;
}

LinearPart ColumnsOf(const LinearPart& whole, Share share) {
  if (share.size == 1) return whole;
  LinearPart out = whole;
  if (whole.weight.defined()) out.weight = Columns(whole.weight, share, whole.name);
  if (whole.i4.codes.defined()) {
    FIREQ_CHECK(whole.i4.k % (int64_t{kGroup} * share.size) == 0, kUnsupported, whole.name, ": ",
                whole.i4.k, " columns are not whole groups of ", kGroup, " on each of ", share.size,
                " ranks");
    out.i4.codes = Columns(whole.i4.codes, share, whole.name);
    out.i4.scale = Columns(whole.i4.scale, share, whole.name);
    out.i4.zero = Columns(whole.i4.zero, share, whole.name);
    out.i4.k = whole.i4.k / share.size;
  }
  if (share.rank > 0) out.bias = Tensor();
  return out;
}

}  // namespace fireq
