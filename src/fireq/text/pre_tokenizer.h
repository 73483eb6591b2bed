// The "pre_tokenizer" of a tokenizer.json: cuts a normalised text into the pieces that BPE sees.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "fireq/io/json.h"
#include "fireq/text/bpe.h"
#include "fireq/text/regex.h"

namespace fireq::text {

// A text cut into pieces, in order; steps cut further, drop pieces or rewrite the text.
struct Pieces {
  std::string text;
  std::vector<Span> spans;     // not empty, not overlapping, ascending
  bool at_text_start = false;  // whether `text` is the beginning of what the user gave
};

class PreTokenizer {
 public:
  PreTokenizer() = default;  // one piece

  // Sequence, ByteLevel, Split, Digits, Metaspace, Whitespace, WhitespaceSplit, Punctuation,
  // CharDelimiterSplit, BertPreTokenizer. Errors: kUnsupported for others, by name.
  explicit PreTokenizer(const JsonObject& spec);

  // kBytes when the only step that spells bytes as characters is the last: it is then left out,
  // and the model works on raw bytes.
  SymbolKind symbols() const { return symbols_; }

  // Cuts pieces->text, whose `spans` are ignored. Errors: see RegexMatcher::Next.
  void Apply(Pieces* pieces) const;

  class Step {
   public:
    virtual ~Step() = default;
    virtual void Apply(Pieces* pieces) const = 0;
  };

 private:
  using StepPtr = std::shared_ptr<const Step>;
  void Add(const JsonObject& spec, int depth);
  void AddByteLevel(const JsonObject& spec);

  std::vector<StepPtr> steps_;
  SymbolKind symbols_ = SymbolKind::kCharacters;
};

}  // namespace fireq::text
