// Tokens that are found in the text as they are, before BPE: special tokens and other additions.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "fireq/io/json.h"
#include "fireq/text/normalizer.h"
#include "fireq/text/regex.h"
#include "fireq/text/vocab.h"

namespace fireq::text {

struct AddedToken {
  int32_t id = kNoToken;
  std::string content;
  bool special = false;      // a control token: skipped in output, not parsed from untrusted text
  bool single_word = false;  // only where no word character is next to it
  bool lstrip = false;       // swallows the white space before it
  bool rstrip = false;       // swallows the white space after it
  bool normalized = false;   // looked for in the normalised text, in normalised form
};

// A stretch of a text: an added token, or (id == kNoToken) text for the model.
struct Segment {
  Span span;
  int32_t id = kNoToken;
};

// Finds the longest of many literals at each place, left to right.
class LiteralMatcher {
 public:
  LiteralMatcher();
  void Add(std::string_view literal, int32_t index);
  bool empty() const { return nodes_.size() == 1; }
  // The first match that begins at or after `from`; false if there is none.
  bool Find(std::string_view text, size_t from, Span* match, int32_t* index) const;

 private:
  struct Node {
    std::vector<std::pair<char, int32_t>> children;
    int32_t index = -1;
  };
  int32_t Child(int32_t node, char byte) const;

  std::vector<Node> nodes_;
  std::array<int32_t, 256> roots_;
};

class AddedTokens {
 public:
  // Adds the entry `spec` of "added_tokens" (or of "added_tokens_decoder" with its id). Errors:
  // kCorrupt for an entry that contradicts an earlier one or `model`.
  void Add(const JsonObject& spec, int32_t id, const Vocab& model);

  // Prepares SplitRaw and SplitNormalized; after the last Add.
  void Finish(const Normalizer& normalizer);

  // The token with `id`, or nullptr.
  const AddedToken* ById(int32_t id) const;
  int32_t Find(std::string_view content) const { return index_.Find(content); }
  // One more than the largest id.
  int32_t end_id() const { return index_.end_id(); }
  const std::vector<AddedToken>& tokens() const { return tokens_; }

  // Cut at the tokens that are not "normalized", and at those that are. With `parse_special`
  // false, special tokens are text like any other.
  std::vector<Segment> SplitRaw(std::string_view text, bool parse_special) const {
    return Split(raw_, text, parse_special);
  }
  std::vector<Segment> SplitNormalized(std::string_view text, bool parse_special) const {
    return Split(normalized_, text, parse_special);
  }

 private:
  std::vector<Segment> Split(const LiteralMatcher& matcher, std::string_view text,
                             bool parse_special) const;

  std::vector<AddedToken> tokens_;
  Vocab index_;                 // content <-> id
  std::vector<int32_t> by_id_;  // index in tokens_ or -1
  LiteralMatcher raw_;
  LiteralMatcher normalized_;
};

}  // namespace fireq::text
