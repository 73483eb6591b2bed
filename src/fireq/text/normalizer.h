// The "normalizer" of a tokenizer.json: what happens to a text before anything splits it.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "fireq/io/json.h"

namespace fireq::text {

class Normalizer {
 public:
  Normalizer() = default;  // changes nothing

  // Sequence, Prepend, Append, Replace, NFC, NFD, NFKC, NFKD, Lowercase, Strip, StripAccents,
  // ByteLevel. Errors: kUnsupported for others, by name.
  explicit Normalizer(const JsonObject& spec);

  bool empty() const { return steps_.empty(); }
  // Whether a step spells bytes in the byte-level alphabet.
  bool makes_byte_level() const { return makes_byte_level_; }

  // `text` is valid UTF-8, and so is the result. Errors: kUnsupported if it exceeds 1 GiB.
  std::string Apply(std::string_view text) const;

  class Step {
   public:
    virtual ~Step() = default;
    virtual std::string Apply(std::string_view text) const = 0;
  };

 private:
  void Add(const JsonObject& spec, int depth);

  std::vector<std::shared_ptr<const Step>> steps_;
  bool makes_byte_level_ = false;
};

// Replaces every match of `pattern` ({"String": s} or {"Regex": r}) by `content`: a step of
// normalizers and of decoders.
std::shared_ptr<const Normalizer::Step> MakeReplace(const JsonObject& spec);

inline constexpr size_t kMaxTextBytes = size_t{1} << 30;

}  // namespace fireq::text
