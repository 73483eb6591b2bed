// What must hold for every tokenizer that loads, wherever it came from.
#pragma once

#include <string>
#include <vector>

#include "fireq/text/detokenizer.h"
#include "fireq/text/utf8.h"
#include "tests/fuzz/fuzzing.h"

namespace fireq {

// Ids lie in the vocabulary; streaming gives what Decode gives.
inline void CheckText(const text::Tokenizer& tokenizer, const std::string& text) {
  const std::vector<int32_t> ids = tokenizer.Encode(text);
  text::Detokenizer stream(tokenizer, {.stops = {"ab"}});
  std::string streamed;
  for (const int32_t id : ids) {
    Require(id >= 0 && id < tokenizer.vocab_size());
    streamed += stream.Add(id);
  }
  streamed += stream.Flush();
  const std::string whole = tokenizer.Decode(ids);
  Require(text::FindInvalidUtf8(streamed) == text::kNoOffset);
  Require(streamed == whole.substr(0, whole.find("ab")));
}

inline constexpr const char* kSomeText = "Hello  ab\n12\xC3\xA9 <s>\xF0\x9F\x99\x82";

}  // namespace fireq
