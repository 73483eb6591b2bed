#include "fireq/backends/cpu/context.h"

#include <cstring>

namespace fireq::cpu {

Context::Context(int num_threads, bool portable_only)
    : pool(num_threads),
      rows(Rows()),
      f32(PortableKernels()),
      bf16(portable_only ? nullptr : Avx512Bf16Kernels()),
      digits(bf16 != nullptr ? nullptr : Digits()),
      words_table(Products::kTable, ProductLayout::kWords),
      words_exact(Products::kExact, ProductLayout::kWords),
      bytes_table(Products::kTable, ProductLayout::kSplitBytes),
      bytes_exact(Products::kExact, ProductLayout::kSplitBytes),
      threads(static_cast<size_t>(pool.num_threads())) {}

const float* BorderRow(const Context& context, const Tensor& tensor, int64_t i, int64_t n,
                       float* buffer) {
  if (tensor.dtype() == DType::kF32) return tensor.as<float>() + i * n;
  context.rows.bf16_to_f32(tensor.as<bf16_t>() + i * n, n, buffer);
  return buffer;
}

void StoreBorderRow(const Context& context, const float* x, int64_t n, const Tensor& tensor,
                    int64_t i) {
  if (tensor.dtype() == DType::kF32) {
    std::memcpy(tensor.as<float>() + i * n, x, static_cast<size_t>(n) * sizeof(float));
  } else {
    context.rows.f32_to_bf16(x, n, tensor.as<bf16_t>() + i * n);
  }
}

}  // namespace fireq::cpu
