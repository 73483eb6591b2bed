// RopeKvWrite of a step of one token a sequence, asked for but not queued until it is known whether
// attention comes next: its kernel may then do both, and the queries never reach memory.
#pragma once

#include <optional>

#include "fireq/backends/sm90/rope_kv_write/launch.h"
#include "fireq/backends/sm90/runtime/stream.h"
#include "fireq/ops/args.h"

namespace fireq::sm90 {

struct AskedRope {
  RopeKvWriteArgs args;  // tensors, so that their memory is there as long as it may be read
  BatchView batch;
  RopeKvWriteParams launch;
};

// What awaits is settled before any other op is queued.
class AwaitedRope {
 public:
  explicit AwaitedRope(int num_sms) : num_sms_(num_sms) {}
  // Of checked args. Queued at once if no attention would take it along; as an ordinary launch if
  // not `programmatic`.
  void Ask(const RopeKvWriteArgs& args, bool programmatic, cudaStream_t stream);
  // What awaits, if it is of the step and the cache of `args` and attention's kernel may do it;
  // null if not. Until then, or until attention says that it has.
  const AskedRope* Find(const AttentionArgs& args) const;
  void MadeByAttention() { awaited_.reset(); }
  bool Pending() const { return awaited_.has_value(); }
  // Whether it would await.
  bool MayAwait(const RopeKvWriteArgs& args) const;
  void Make(cudaStream_t stream);
  // Of ops that will not be run.
  void Drop() { awaited_.reset(); }

 private:
  int num_sms_;
  std::optional<AskedRope> awaited_;
};

}  // namespace fireq::sm90
