// The "decoder" of a tokenizer.json: what text a token stands for.
//
// Kept in a form that streams: every token has bytes of its own (the first of a text may differ),
// all bytes are joined, and characters may be stripped from the front of the whole.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "fireq/io/json.h"

namespace fireq::text {

class Decoder {
 public:
  Decoder() = default;  // tokens with a space between them

  // Sequence, ByteLevel, ByteFallback, Fuse, Metaspace, Replace, Strip, BPEDecoder. Errors:
  // kUnsupported for others and for orders that do not stream, by name.
  explicit Decoder(const JsonObject& spec);

  // Bytes of one token, maybe in the middle of a character; `first`: nothing was before it.
  std::string Spell(std::string_view token, bool first) const;
  bool first_differs() const { return first_differs_; }

  // At the front of the whole text up to `strip_count` occurrences of `strip_text` go away.
  const std::string& strip_text() const { return strip_text_; }
  int strip_count() const { return strip_count_; }

 private:
  using Step = std::function<std::string(std::string, bool first)>;
  void Add(const JsonObject& spec, int depth);
  void AddStrip(const JsonObject& spec);
  void AddMetaspace(const JsonObject& spec);

  std::vector<Step> steps_;
  bool has_spec_ = false;
  bool first_differs_ = true;
  bool fused_ = false;
  std::string strip_text_;
  int strip_count_ = 0;
};

}  // namespace fireq::text
