// Making a linear weight ready: nothing is expanded, rows are padded to whole blocks if need be.
#include <algorithm>
#include <cstring>

#include "fireq/backends/cpu/linear.h"
#include "fireq/formats/f16.h"

namespace fireq::cpu {
namespace {

// `tensor` [n, row_bytes] bytes -> rows of `padded` bytes, the rest zero.
Tensor PadRows(const Tensor& tensor, int64_t n, int64_t row_bytes, int64_t padded) {
  Tensor out = Tensor::Zeros(DType::kU8, {n, padded});
  const auto* from = static_cast<const uint8_t*>(tensor.data());
  for (int64_t i = 0; i < n; ++i) {
    std::memcpy(out.as<uint8_t>() + i * padded, from + i * row_bytes,
                static_cast<size_t>(row_bytes));
  }
  return out;
}

void PrepareI4(const WeightI4& weight, LinearRows& out) {
  const WeightI4Layout layout{weight.n, weight.k};
  const int64_t row_bytes = layout.code_bytes_per_row();
  const int64_t padded = AlignUp(weight.k, kBlockK) / 2;
  out.data =
      row_bytes == padded ? weight.codes : PadRows(weight.codes, weight.n, row_bytes, padded);
  out.inv_t = 1.0f / weight.t;
  const auto* scale = weight.scale.as<e4m3_t>();
  const auto* zero = weight.zero.as<uint8_t>();
  out.index.resize(static_cast<size_t>(layout.scale_bytes()));
  for (size_t i = 0; i < out.index.size(); ++i) out.index[i] = ProductRow(zero[i] & 15, scale[i]);
  out.rows.kind = WeightKind::kI4;
  out.rows.stride_bytes = padded;
  out.rows.index = out.index.data();
  out.rows.groups = layout.groups();
}

Tensor F16ToF32(const Tensor& weight) {
  Tensor out = Tensor::Empty(DType::kF32, weight.shape());
  std::transform(weight.as<uint16_t>(), weight.as<uint16_t>() + weight.num_elements(),
                 out.as<float>(), F16ToFloat);
  return out;
}

void PrepareFloat(const Tensor& weight, LinearRows& out) {
  const Tensor values = weight.dtype() == DType::kF16 ? F16ToF32(weight) : weight;
  const int64_t size = SizeBytes(values.dtype());
  const int64_t k = values.dim(1);
  const int64_t padded = AlignUp(k, kBlockK);
  out.data = k == padded ? values : PadRows(values, values.dim(0), k * size, padded * size);
  out.rows.kind = size == 2 ? WeightKind::kBf16 : WeightKind::kF32;
  out.rows.stride_bytes = padded * size;
}

}  // namespace

CpuLinear::CpuLinear(LinearSpec spec) : gate_up_(spec.gate_up) {
  parts_.reserve(spec.parts.size());
  for (LinearPart& part : spec.parts) {
    LinearRows& out = parts_.emplace_back();
    const bool i4 = part.i4.codes.defined();
    if (i4) {
      PrepareI4(part.i4, out);
    } else {
      PrepareFloat(part.weight, out);
    }
    out.rows.data = static_cast<const uint8_t*>(out.data.data());
    out.bias = part.bias;
    out.begin = n_;
    out.n = i4 ? part.i4.n : part.weight.dim(0);
    k_ = i4 ? part.i4.k : part.weight.dim(1);
    n_ += out.n;
    quantized_ |= i4;
    has_f32_ |= out.rows.kind == WeightKind::kF32;
  }
}

}  // namespace fireq::cpu
