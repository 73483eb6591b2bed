// What the parts of the CPU backend share: threads, kernels, product tables, scratch.
#pragma once

#include <memory>
#include <vector>

#include "fireq/backends/cpu/digit_kernels.h"
#include "fireq/backends/cpu/gemm_kernels.h"
#include "fireq/backends/cpu/product_table.h"
#include "fireq/backends/cpu/row_ops.h"
#include "fireq/base/thread_pool.h"
#include "fireq/tensor/tensor.h"

namespace fireq::cpu {

// Bytes that grow and are never given back; 64-byte aligned, contents undefined after a growth.
class Scratch {
 public:
  template <class T>
  T* Get(int64_t count) {
    const int64_t bytes = count * static_cast<int64_t>(sizeof(T));
    if (!bytes_.defined() || bytes_.size_bytes() < bytes) {
      bytes_ = Tensor();
      bytes_ = Tensor::Zeros(DType::kU8, {bytes + bytes / 4});
    }
    return reinterpret_cast<T*>(bytes_.as<uint8_t>());
  }

 private:
  Tensor bytes_;
};

// One thread's scratch, by use.
struct ThreadScratch {
  Scratch panel;   // an expanded panel of weights, or K and V of a page
  Scratch sums;    // FP32 results of a tile
  Scratch rows;    // rows of floats
  Scratch query;   // Q of a block in operand order
  Scratch digits;  // or as digits
  Scratch probs;   // scores and probabilities
};

struct Context {
  explicit Context(int num_threads, bool portable_only);

  ThreadPool pool;
  const RowOps& rows;
  const GemmKernels<float>& f32;
  const GemmKernels<bf16_t>* bf16;  // null: portable only
  const DigitKernels* digits;       // null: no vectors, or `bf16` serves
  ProductTable words_table, words_exact, bytes_table, bytes_exact;
  std::vector<ThreadScratch> threads;
  Scratch operands;    // activations of the call in operand order
  Scratch digit_rows;  // or as digits
  Scratch partials;    // attention over parts of a context
};

// Row `i` of a border tensor [.., n] as FP32: the tensor's own memory or a copy in `buffer`.
const float* BorderRow(const Context& context, const Tensor& tensor, int64_t i, int64_t n,
                       float* buffer);
// n floats to row `i` of a border tensor, rounded if that is BF16.
void StoreBorderRow(const Context& context, const float* x, int64_t n, const Tensor& tensor,
                    int64_t i);

}  // namespace fireq::cpu
