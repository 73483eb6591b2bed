// Codes of one row that are asked for but not made until it is known who reads them: a linear may
// make them for itself (gemm_i4f8/resident_tokens.cuh), and then they never reach memory.
#pragma once

#include <optional>
#include <set>

#include "fireq/backends/sm90/runtime/rows_ready.h"
#include "fireq/backends/sm90/runtime/stream.h"
#include "fireq/ops/args.h"

namespace fireq::sm90 {

// Tensors, so that their memory is there as long as it may be read.
struct CodesToMake {
  Tensor x;     // BF16 [rows, k]
  Tensor norm;  // F32 [k], or undefined: quantised as they are
  float eps = 0.0f;
  ActTensor out;
  bool any_order = false;  // of a norm's sum of squares: it may depend on the number of rows
  RowsReady ready;         // of x, without a norm
};

// What awaits is settled before any other op is queued.
class AwaitedCodes {
 public:
  void Ask(const CodesToMake& codes, cudaStream_t stream);
  // Those that `codes` would be read from now, if they are awaited: who makes them for itself says
  // so. They may be had again while no other op has run.
  const CodesToMake* Find(const uint8_t* codes) const;
  // Whether a kernel would be queued before the next codes are asked for.
  bool Pending() const { return awaited_ && !read_; }
  void MadeByReader(const void* written);  // what the reader wrote
  // Another kernel has made the codes at `codes`.
  void MadeElsewhere(const void* codes) { unmade_.erase(codes); }
  // Makes what is awaited and what is to be read from `wanted`. Throws kInternal if that was left
  // to a reader and is gone: such codes are for one reader, or for several one after the other.
  void Make(cudaStream_t stream, const void* wanted = nullptr);
  // Of ops that will not be run.
  void Drop() { *this = {}; }

 private:
  std::optional<CodesToMake> awaited_;
  bool read_ = false;
  std::set<const void*> unmade_;  // places of codes that only a reader has had
};

}  // namespace fireq::sm90
