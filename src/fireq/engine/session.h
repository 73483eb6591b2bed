// One sequence on one backend: a cache that grows, and logits of the last token.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "fireq/model/kv_cache.h"
#include "fireq/model/model.h"

namespace fireq {

// Sessions of other ranks, which do what one session does, at the same time.
class SessionFollowers {
 public:
  virtual ~SessionFollowers() = default;
  virtual void Append(std::span<const int32_t> ids) = 0;
  virtual void Truncate(int64_t length) = 0;
  virtual void Fail() = 0;  // the session has failed: nobody waits for it any more
};

struct SessionOptions {
  int64_t max_context = 0;       // tokens; 0: what the model states
  int64_t prefill_chunk = 2048;  // tokens a step at most
  Products products = Products::kServed;
  Reduction reduction = Reduction::kFastest;
  SessionFollowers* followers = nullptr;  // told what has been checked; outlives the session
};

// Not thread-safe. `backend` and `model` outlive the session.
class Session {
 public:
  Session(Backend& backend, const Model& model, const SessionOptions& options);

  // Runs `ids` behind what is there; logits F32 [V] (host) of the last one. Throws kInvalidArgument
  // if there are no ids, an id is outside the vocabulary or the context would exceed max_context.
  Tensor Append(std::span<const int32_t> ids);

  // Forgets everything from position `length` on.
  void Truncate(int64_t length);

  const std::vector<int32_t>& ids() const { return ids_; }
  int64_t max_context() const { return max_context_; }

 private:
  Tensor RunChecked(std::span<const int32_t> ids);
  Tensor Step(std::span<const int32_t> ids, bool want_logits);
  void Reserve(int64_t tokens);

  Backend& backend_;
  const Model& model_;
  SessionOptions options_;
  int64_t max_context_;
  ForwardContext context_;
  std::optional<ForwardBuffers> buffers_;
  std::vector<int32_t> pages_;  // identity: the session owns its whole cache
  std::optional<KvCache> cache_;
  std::vector<int32_t> ids_;
};

}  // namespace fireq
