// What decode attention's CTAs do where each has many segments (attn_decode_i4/lists.h): found once
// for all layers of a step.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <utility>

#include "fireq/backends/sm90/attn_decode_i4/params.h"
#include "fireq/backends/sm90/attn_decode_i4/plan.h"
#include "fireq/backends/sm90/runtime/stream.h"
#include "fireq/tensor/tensor.h"

namespace fireq::sm90 {

// One stream. Lists are good as long as nothing is queued that may change what they were made of,
// or that overwrites them without telling: who queues such a thing says so (Forget).
class StepLists {
 public:
  explicit StepLists(std::shared_ptr<Stream> stream) : stream_(std::move(stream)) {}

  struct Made {
    void* lists;
    bool now;  // what is queued next must be an ordinary launch (LaunchDecodeLists)
  };
  // Of a plan that finishes. Queues what makes them, if they have not been made yet.
  Made Of(const AttnDecodePlan& plan, const AttnDecodeParams& tensors);
  void Forget() { made_.reset(); }

  // Takes memory for lists of up to so many bytes; returns all that is held.
  int64_t Reserve(int64_t bytes);

 private:
  // What lists are made of, by address and shape.
  struct Step {
    const int32_t *query_start = nullptr, *context_len = nullptr, *page_table = nullptr;
    int32_t num_sequences = 0, num_heads = 0, kv_heads = 0, max_pages = 0;
    int ctas = 0;
    bool operator==(const Step&) const = default;
  };
  void* Memory(int64_t bytes);

  std::shared_ptr<Stream> stream_;
  std::map<int64_t, Tensor> memory_;  // by size; recordings keep theirs
  std::optional<std::pair<Step, void*>> made_;
};

}  // namespace fireq::sm90
