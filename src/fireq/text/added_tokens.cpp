#include "fireq/text/added_tokens.h"

#include <algorithm>

#include "fireq/base/error.h"
#include "fireq/text/unicode_normal.h"
#include "fireq/text/utf8.h"

namespace fireq::text {
namespace {

// Longest real ones are below 100 bytes; the bound keeps the search linear in the text.
constexpr size_t kMaxContentBytes = 4096;

char32_t CharBefore(std::string_view text, size_t at) {
  return at == 0 ? U' ' : DecodeFirst(text.substr(PreviousChar(text, at))).code;
}
char32_t CharAfter(std::string_view text, size_t at) {
  return at == text.size() ? U' ' : DecodeFirst(text.substr(at)).code;
}

bool StandsAlone(std::string_view text, Span match) {
  return !IsWordChar(CharBefore(text, match.begin)) && !IsWordChar(CharAfter(text, match.end));
}

}  // namespace

LiteralMatcher::LiteralMatcher() : nodes_(1) { roots_.fill(-1); }

int32_t LiteralMatcher::Child(int32_t node, char byte) const {
  if (node == 0) return roots_[static_cast<unsigned char>(byte)];
  for (const auto& [key, child] : nodes_[static_cast<size_t>(node)].children) {
    if (key == byte) return child;
  }
  return -1;
}

void LiteralMatcher::Add(std::string_view literal, int32_t index) {
  int32_t node = 0;
  for (const char byte : literal) {
    int32_t child = Child(node, byte);
    if (child < 0) {
      child = static_cast<int32_t>(nodes_.size());
      nodes_.emplace_back();
      if (node == 0) roots_[static_cast<unsigned char>(byte)] = child;
      if (node != 0) nodes_[static_cast<size_t>(node)].children.emplace_back(byte, child);
    }
    node = child;
  }
  if (node != 0) nodes_[static_cast<size_t>(node)].index = index;
}

bool LiteralMatcher::Find(std::string_view text, size_t from, Span* match, int32_t* index) const {
  for (size_t begin = from; begin < text.size(); ++begin) {
    int32_t node = roots_[static_cast<unsigned char>(text[begin])];
    if (node < 0) continue;
    size_t longest = 0;
    for (size_t at = begin + 1; node > 0; ++at) {
      if (nodes_[static_cast<size_t>(node)].index >= 0) {
        longest = at;
        *index = nodes_[static_cast<size_t>(node)].index;
      }
      node = at < text.size() ? Child(node, text[at]) : -1;
    }
    if (longest == 0) continue;
    *match = {begin, longest};
    return true;
  }
  return false;
}

void AddedTokens::Add(const JsonObject& spec, int32_t id, const Vocab& model) {
  AddedToken token;
  token.id = id;
  token.content = spec.String("content");
  token.special = spec.BoolOr("special", false);
  token.single_word = spec.BoolOr("single_word", false);
  token.lstrip = spec.BoolOr("lstrip", false);
  token.rstrip = spec.BoolOr("rstrip", false);
  token.normalized = spec.BoolOr("normalized", !token.special);
  FIREQ_CHECK(token.content.size() <= kMaxContentBytes, kUnsupported, spec.PlaceOf("content"),
              ": a token of ", token.content.size(), " bytes; at most ", kMaxContentBytes);
  const int32_t in_model = model.Find(token.content);
  FIREQ_CHECK(in_model == kNoToken || in_model == id, kCorrupt, spec.place(), ": \"", token.content,
              "\" has the id ", id, " here and ", in_model, " in model.vocab");
  const AddedToken* same_id = ById(id);
  if (same_id != nullptr && same_id->content == token.content) return;
  FIREQ_CHECK(same_id == nullptr, kCorrupt, spec.place(), ": \"", token.content, "\" has the id ",
              id, ", which \"", same_id == nullptr ? "" : same_id->content, "\" has already");
  const int32_t other = index_.Find(token.content);
  FIREQ_CHECK(other == kNoToken, kCorrupt, spec.place(), ": \"", token.content, "\" has the id ",
              id, " here and ", other, " before");
  index_.Add(token.content, id);
  by_id_.resize(std::max(by_id_.size(), static_cast<size_t>(id) + 1), -1);
  by_id_[static_cast<size_t>(id)] = static_cast<int32_t>(tokens_.size());
  tokens_.push_back(std::move(token));
}

void AddedTokens::Finish(const Normalizer& normalizer) {
  for (size_t i = 0; i < tokens_.size(); ++i) {
    const AddedToken& token = tokens_[i];
    if (token.normalized) {
      normalized_.Add(normalizer.Apply(token.content), static_cast<int32_t>(i));
    } else {
      raw_.Add(token.content, static_cast<int32_t>(i));
    }
  }
}

const AddedToken* AddedTokens::ById(int32_t id) const {
  if (id < 0 || static_cast<size_t>(id) >= by_id_.size()) return nullptr;
  const int32_t at = by_id_[static_cast<size_t>(id)];
  return at < 0 ? nullptr : &tokens_[static_cast<size_t>(at)];
}

std::vector<Segment> AddedTokens::Split(const LiteralMatcher& matcher, std::string_view text,
                                        bool parse_special) const {
  std::vector<Segment> segments;
  size_t done = 0;
  size_t from = 0;
  Span match;
  int32_t index = 0;
  while (matcher.Find(text, from, &match, &index)) {
    from = match.end;
    const AddedToken& token = tokens_[static_cast<size_t>(index)];
    if (token.special && !parse_special) continue;
    if (token.single_word && !StandsAlone(text, match)) continue;
    while (token.lstrip && match.begin > done && IsWhiteSpace(CharBefore(text, match.begin))) {
      match.begin = PreviousChar(text, match.begin);
    }
    while (token.rstrip && match.end < text.size() && IsWhiteSpace(CharAfter(text, match.end))) {
      match.end += static_cast<size_t>(CharLength(text, match.end));
    }
    if (match.begin < done) continue;  // inside the white space of the token before
    if (done < match.begin) segments.push_back({{done, match.begin}, kNoToken});
    segments.push_back({match, token.id});
    done = match.end;
    from = std::max(from, done);
  }
  if (done < text.size()) segments.push_back({{done, text.size()}, kNoToken});
  return segments;
}

}  // namespace fireq::text
