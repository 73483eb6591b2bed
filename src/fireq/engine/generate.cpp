#include "fireq/engine/generate.h"

#include <algorithm>
#include <chrono>

namespace fireq {
namespace {

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Keeps the longest common prefix of the session and `prompt`, but leaves at least the last token
// to run: its logits are needed.
int64_t ReusePrefix(Session& session, std::span<const int32_t> prompt) {
  const auto common =
      std::mismatch(session.ids().begin(), session.ids().end(), prompt.begin(), prompt.end());
  const int64_t shared =
      std::min<int64_t>(common.second - prompt.begin(), static_cast<int64_t>(prompt.size()) - 1);
  session.Truncate(std::max<int64_t>(shared, 0));
  return std::max<int64_t>(shared, 0);
}

}  // namespace

Generation Generate(Session& session, std::span<const int32_t> prompt, const GenerateParams& params,
                    const std::function<bool(int32_t id)>& on_token) {
  FIREQ_CHECK(params.max_new_tokens >= 0, kInvalidArgument,
              "number of new tokens must be >= 0, got ", params.max_new_tokens);
  Validate(params.sampling);
  Sampler sampler;
  std::vector<int32_t> history(prompt.begin(), prompt.end());
  Generation out;
  const int64_t reused = ReusePrefix(session, prompt);
  out.prefill_tokens = static_cast<int64_t>(prompt.size()) - reused;
  auto start = std::chrono::steady_clock::now();
  Tensor logits = session.Append(prompt.subspan(static_cast<size_t>(reused)));
  out.prefill_seconds = SecondsSince(start);

  start = std::chrono::steady_clock::now();
  while (static_cast<int64_t>(out.ids.size()) < params.max_new_tokens) {
    const int32_t id = sampler
                           .Choose(params.sampling,
                                   {logits.as<float>(), static_cast<size_t>(logits.num_elements())},
                                   history, static_cast<int64_t>(out.ids.size()))
                           .id;
    FIREQ_CHECK(id >= 0, kInternal, "all ", logits.num_elements(),
                " logits are NaN: the model's weights or its inputs are broken");
    if (std::find(params.stop_ids.begin(), params.stop_ids.end(), id) != params.stop_ids.end()) {
      out.reason = FinishReason::kStopId;
      break;
    }
    out.ids.push_back(id);
    history.push_back(id);
    if (on_token && !on_token(id)) {
      out.reason = FinishReason::kCancelled;
      break;
    }
    if (static_cast<int64_t>(out.ids.size()) == params.max_new_tokens) break;
    if (static_cast<int64_t>(session.ids().size()) == session.max_context()) {
      out.reason = FinishReason::kContextFull;
      break;
    }
    logits = session.Append({&out.ids.back(), 1});
  }
  out.decode_seconds = SecondsSince(start);
  return out;
}

}  // namespace fireq
