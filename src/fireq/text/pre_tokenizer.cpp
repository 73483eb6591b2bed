#include "fireq/text/pre_tokenizer.h"

#include <algorithm>

#include "fireq/base/error.h"
#include "fireq/text/byte_level.h"
#include "fireq/text/normalizer.h"
#include "fireq/text/sequence_depth.h"
#include "fireq/text/utf8.h"

namespace fireq::text {
namespace {

// Source: GPT-2.
constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
// Category P and the ASCII symbols that BERT counts as punctuation.
constexpr std::string_view kPunctuationPattern = R"([!-/:-@\[-`{-~\p{P}])";

// What becomes of the text that a pattern matches.
enum class Behavior { kIsolated, kRemoved, kMergedWithPrevious, kMergedWithNext, kContiguous };

Behavior ParseBehavior(const JsonObject& spec, const std::string& fallback) {
  const std::string name = spec.StringOr("behavior", fallback);
  if (name == "Isolated") return Behavior::kIsolated;
  if (name == "Removed") return Behavior::kRemoved;
  if (name == "MergedWithPrevious") return Behavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return Behavior::kMergedWithNext;
  if (name == "Contiguous") return Behavior::kContiguous;
  Throw(ErrorCode::kUnsupported,
        StrCat(spec.PlaceOf("behavior"), ": the split behaviour ", name, " is not supported"));
}

// Cuts every piece at the matches of a pattern.
class SplitStep : public PreTokenizer::Step {
 public:
  SplitStep(std::string_view pattern, const std::string& place, Behavior behavior, bool invert)
      : regex_(pattern, place), behavior_(behavior), invert_(invert) {}

  void Apply(Pieces* pieces) const override {
    RegexMatcher matcher(regex_);
    std::vector<Span> out;
    out.reserve(pieces->text.size() / 4 + 1);
    for (const Span piece : pieces->spans) {
      Joiner joiner(behavior_, out);
      matcher.Reset(piece.Of(pieces->text));
      size_t at = piece.begin;
      for (Span match; matcher.Next(&match);) {
        match.begin += piece.begin;
        match.end += piece.begin;
        if (match.begin > at) joiner.Add({at, match.begin}, invert_);
        joiner.Add(match, !invert_);
        at = match.end;
      }
      if (at < piece.end) joiner.Add({at, piece.end}, invert_);
    }
    // Empty matches count as neighbours above, but are no pieces.
    std::erase_if(out, [](Span span) { return span.size() == 0; });
    pieces->spans.swap(out);
  }

 private:
  // Puts the alternating parts of one piece together as the behaviour says.
  class Joiner {
   public:
    Joiner(Behavior behavior, std::vector<Span>& out)
        : behavior_(behavior), out_(out), first_(out.size()) {}

    void Add(Span part, bool is_match) {
      const bool joins = out_.size() > first_ && Joins(is_match);
      if (joins) {
        out_.back().end = part.end;
      } else if (!is_match || behavior_ != Behavior::kRemoved) {
        out_.push_back(part);
      }
      last_was_match_ = is_match;
    }

   private:
    bool Joins(bool is_match) const {
      switch (behavior_) {
        case Behavior::kIsolated:
        case Behavior::kRemoved:
          return false;
        case Behavior::kMergedWithPrevious:
          return is_match && !last_was_match_;
        case Behavior::kMergedWithNext:
          return !is_match && last_was_match_;
        case Behavior::kContiguous:
          return is_match == last_was_match_;
      }
      return false;
    }

    Behavior behavior_;
    std::vector<Span>& out_;
    size_t first_;
    bool last_was_match_ = false;
  };

  Regex regex_;
  Behavior behavior_;
  bool invert_;
};

// Rewrites every piece: rewrite(text, piece, out) appends the new form.
template <class Rewrite>
void RewritePieces(Pieces* pieces, const Rewrite& rewrite) {
  std::string out;
  out.reserve(pieces->text.size() * 2);
  for (Span& piece : pieces->spans) {
    const size_t begin = out.size();
    rewrite(piece, out);
    piece = {begin, out.size()};
    FIREQ_CHECK(out.size() <= kMaxTextBytes, kUnsupported, "splitting a text of ",
                pieces->text.size(), " bytes makes it larger than ", kMaxTextBytes, " bytes");
  }
  pieces->text.swap(out);
}

class PrefixSpaceStep : public PreTokenizer::Step {
 public:
  void Apply(Pieces* pieces) const override {
    RewritePieces(pieces, [&](Span piece, std::string& out) {
      const std::string_view text = piece.Of(pieces->text);
      if (!text.starts_with(' ')) out += ' ';
      out += text;
    });
  }
};

class SpellBytesStep : public PreTokenizer::Step {
 public:
  void Apply(Pieces* pieces) const override {
    RewritePieces(pieces, [&](Span piece, std::string& out) {
      AppendByteLevel(out, piece.Of(pieces->text));
    });
  }
};

// Spaces become the replacement character; where `scheme` says so, one is put in front.
class MetaspaceStep : public PreTokenizer::Step {
 public:
  explicit MetaspaceStep(const JsonObject& spec) : replacement_(spec.String("replacement")) {
    FIREQ_CHECK(!replacement_.empty() &&
                    replacement_.size() == static_cast<size_t>(CharLength(replacement_, 0)),
                kCorrupt, spec.PlaceOf("replacement"), ": expected one character, got \"",
                replacement_, "\"");
    const bool old_flag = spec.BoolOr("add_prefix_space", true);
    scheme_ = spec.StringOr("prepend_scheme", old_flag ? "always" : "never");
    FIREQ_CHECK(scheme_ == "always" || scheme_ == "never" || scheme_ == "first", kUnsupported,
                spec.PlaceOf("prepend_scheme"), ": ", scheme_, " is not supported");
  }
  const std::string& replacement() const { return replacement_; }

  void Apply(Pieces* pieces) const override {
    RewritePieces(pieces, [&](Span piece, std::string& out) {
      const std::string_view text = piece.Of(pieces->text);
      const bool wanted =
          scheme_ == "always" || (scheme_ == "first" && pieces->at_text_start && piece.begin == 0);
      if (wanted && !text.starts_with(' ') && !text.starts_with(replacement_)) out += replacement_;
      for (const char c : text) c == ' ' ? out += replacement_ : out += c;
    });
  }

 private:
  std::string replacement_;
  std::string scheme_;
};

std::string SplitPattern(const JsonObject& spec) {
  const JsonObject pattern = spec.Object("pattern");
  if (pattern.Has("Regex")) return pattern.String("Regex");
  return Regex::Escape(pattern.String("String"));
}

}  // namespace

PreTokenizer::PreTokenizer(const JsonObject& spec) {
  Add(spec, 0);
  // Spelling bytes as characters and reading them back is a waste where nothing looks at them.
  const auto spells = [](const StepPtr& step) {
    return dynamic_cast<const SpellBytesStep*>(step.get()) != nullptr;
  };
  if (!steps_.empty() && spells(steps_.back()) && std::ranges::count_if(steps_, spells) == 1) {
    steps_.pop_back();
    symbols_ = SymbolKind::kBytes;
  }
}

void PreTokenizer::AddByteLevel(const JsonObject& spec) {
  if (spec.BoolOr("add_prefix_space", true)) steps_.push_back(std::make_shared<PrefixSpaceStep>());
  if (spec.BoolOr("use_regex", true)) {
    steps_.push_back(
        std::make_shared<SplitStep>(kGpt2Pattern, spec.place(), Behavior::kIsolated, false));
  }
  steps_.push_back(std::make_shared<SpellBytesStep>());
}

void PreTokenizer::Add(const JsonObject& spec, int depth) {
  FIREQ_CHECK(depth < kMaxSequenceDepth, kUnsupported, spec.place(), ": nested too deeply");
  const std::string type = spec.String("type");
  const auto split = [&](std::string_view pattern, Behavior behavior, bool invert = false) {
    steps_.push_back(std::make_shared<SplitStep>(pattern, spec.place(), behavior, invert));
  };
  if (type == "Sequence") {
    const nlohmann::json* list = spec.Find("pretokenizers");
    FIREQ_CHECK(list != nullptr && list->is_array(), kCorrupt, spec.PlaceOf("pretokenizers"),
                ": expected an array");
    for (size_t i = 0; i < list->size(); ++i) {
      Add(JsonObject((*list)[i], StrCat(spec.PlaceOf("pretokenizers"), "[", i, "]")), depth + 1);
    }
  } else if (type == "ByteLevel") {
    AddByteLevel(spec);
  } else if (type == "Split") {
    split(SplitPattern(spec), ParseBehavior(spec, "Isolated"), spec.BoolOr("invert", false));
  } else if (type == "Digits") {
    const bool individual = spec.BoolOr("individual_digits", false);
    split(R"(\p{N})", individual ? Behavior::kIsolated : Behavior::kContiguous);
  } else if (type == "Metaspace") {
    const auto step = std::make_shared<MetaspaceStep>(spec);
    steps_.push_back(step);
    if (spec.BoolOr("split", true)) {
      split(Regex::Escape(step->replacement()), Behavior::kMergedWithNext);
    }
  } else if (type == "Whitespace") {
    split(R"(\w+|[^\w\s]+)", Behavior::kRemoved, true);
  } else if (type == "WhitespaceSplit") {
    split(R"(\s)", Behavior::kRemoved);
  } else if (type == "Punctuation") {
    split(kPunctuationPattern, ParseBehavior(spec, "Isolated"));
  } else if (type == "BertPreTokenizer") {
    split(R"(\s)", Behavior::kRemoved);
    split(kPunctuationPattern, Behavior::kIsolated);
  } else if (type == "CharDelimiterSplit") {
    split(Regex::Escape(spec.String("delimiter")), Behavior::kRemoved);
  } else {
    Throw(ErrorCode::kUnsupported,
          StrCat(spec.PlaceOf("type"), ": the pre-tokenizer ", type, " is not supported"));
  }
}

void PreTokenizer::Apply(Pieces* pieces) const {
  pieces->spans.assign(pieces->text.empty() ? 0 : 1, Span{0, pieces->text.size()});
  for (const StepPtr& step : steps_) step->Apply(pieces);
}

}  // namespace fireq::text
