// What goes into the engine and what comes out: token ids, never text.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "fireq/ops/sampler.h"

namespace fireq {

using RequestId = uint64_t;

// Made by whoever asks (server, benchmark, test); read by the engine.
struct Request {
  std::vector<int32_t> prompt;   // at least one id
  int64_t max_new_tokens = 128;  // at least one
  SamplingParams sampling;
  std::vector<int64_t> stop_ids;  // any of these ends the output and is not part of it
};

enum class FinishReason : uint8_t {
  kStopId,       // one of stop_ids was chosen
  kLength,       // max_new_tokens are out
  kContextFull,  // the model's context or the whole cache is full
  kCancelled,    // on request, or the engine was shut down
  kError,        // Finish::error says what
};
inline constexpr int kNumFinishReasons = 5;

struct Finish {
  FinishReason reason = FinishReason::kLength;
  std::string error;
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;  // of the prompt, found in the prefix cache at first admission
  int64_t output_tokens = 0;
  int64_t first_token_us = 0;  // from Submit to the first token; 0 without one
  int64_t total_us = 0;        // from Submit to here
};

// A token, the end, or the last token with the end. Every accepted request gets exactly one event
// with `finish`, and nothing after it.
struct TokenEvent {
  RequestId request = 0;
  std::optional<TokenChoice> token;
  std::optional<Finish> finish;
};

// Called on the engine's thread in the order of the tokens; must return quickly (push to a queue).
// One that throws ends its request as cancelled.
using EventSink = std::function<void(const TokenEvent&)>;

}  // namespace fireq
