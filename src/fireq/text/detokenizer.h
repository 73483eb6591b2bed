// Token ids to text as they are generated.
//
// What Add returns is final: whole UTF-8 characters, and nothing that could still turn out to be
// the beginning of a stop string. The pieces of Add and Flush, joined, equal Tokenizer::Decode
// (cut before the first stop string). One thread at a time; the Tokenizer must outlive it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "fireq/text/tokenizer.h"

namespace fireq::text {

struct DetokenizerOptions {
  bool skip_special = false;       // leave control tokens out
  std::vector<std::string> stops;  // texts that end the output and are not part of it; not empty
};

class Detokenizer {
 public:
  // Errors: kInvalidArgument for an empty stop string.
  explicit Detokenizer(const Tokenizer& tokenizer, DetokenizerOptions options = {});

  // Text that token `id` makes certain; "" after a stop string has been seen.
  std::string Add(int32_t id);

  // The rest, with an unfinished character as U+FFFD; to be called once, at the end.
  std::string Flush();

  // Whether a stop string has been seen, and which one.
  bool stopped() const { return stopped_; }
  const std::string& stop() const { return stop_; }

 private:
  void TakeCharacters(bool at_end);
  void StripFront();
  std::string Release(bool at_end);

  const Tokenizer* tokenizer_;
  DetokenizerOptions options_;
  std::string bytes_;  // not yet characters
  std::string text_;   // characters held back
  bool first_ = true;
  int strips_left_;
  bool stopped_ = false;
  std::string stop_;
};

}  // namespace fireq::text
