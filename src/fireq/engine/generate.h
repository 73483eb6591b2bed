// Token ids in, token ids out: one request on one session.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "fireq/engine/messages.h"
#include "fireq/engine/session.h"

namespace fireq {

struct GenerateParams {
  int64_t max_new_tokens = 128;
  SamplingParams sampling;
  std::vector<int64_t> stop_ids;  // any of these ends the generation and is not part of it
};

struct Generation {
  std::vector<int32_t> ids;
  FinishReason reason = FinishReason::kLength;
  int64_t prefill_tokens = 0;  // run through the model, not found in the session
  double prefill_seconds = 0.0;
  double decode_seconds = 0.0;  // from the first new token to the last
};

// Continues `prompt`. What the session already holds of it is not run again. `on_token` sees each
// id as it is chosen; when it returns false the generation ends as kCancelled.
// Throws kInvalidArgument as Session::Append does.
Generation Generate(Session& session, std::span<const int32_t> prompt, const GenerateParams& params,
                    const std::function<bool(int32_t id)>& on_token = {});

}  // namespace fireq
