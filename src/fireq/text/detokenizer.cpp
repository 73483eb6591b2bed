#include "fireq/text/detokenizer.h"

#include <algorithm>

#include "fireq/base/error.h"
#include "fireq/text/utf8.h"

namespace fireq::text {
namespace {

// Length of the longest end of `text` that is a proper beginning of `word`.
size_t PartialMatch(std::string_view text, std::string_view word) {
  for (size_t size = std::min(text.size(), word.size() - 1); size > 0; --size) {
    if (text.ends_with(word.substr(0, size))) return size;
  }
  return 0;
}

}  // namespace

Detokenizer::Detokenizer(const Tokenizer& tokenizer, DetokenizerOptions options)
    : tokenizer_(&tokenizer),
      options_(std::move(options)),
      strips_left_(tokenizer.decoder().strip_count()) {
  for (size_t i = 0; i < options_.stops.size(); ++i) {
    FIREQ_CHECK(!options_.stops[i].empty(), kInvalidArgument, "stop string ", i, " is empty");
  }
}

std::string Detokenizer::Add(int32_t id) {
  FIREQ_CHECK(id >= 0, kInvalidArgument, "token id ", id, " is negative");
  if (stopped_ || (options_.skip_special && tokenizer_->IsSpecial(id))) return "";
  if (tokenizer_->TokenOf(id).empty()) return "";
  tokenizer_->AppendBytes(id, first_, &bytes_);
  first_ = false;
  TakeCharacters(false);
  return Release(false);
}

std::string Detokenizer::Flush() {
  if (stopped_) return "";
  TakeCharacters(true);
  return Release(true);
}

void Detokenizer::TakeCharacters(bool at_end) {
  const size_t keep = at_end ? 0 : IncompleteTail(bytes_);
  const size_t take = bytes_.size() - keep;
  AppendRepaired(text_, std::string_view(bytes_).substr(0, take));
  bytes_.erase(0, take);
  StripFront();
}

void Detokenizer::StripFront() {
  const std::string& strip = tokenizer_->decoder().strip_text();
  while (strips_left_ > 0 && text_.size() >= strip.size()) {
    if (!text_.starts_with(strip)) {
      strips_left_ = 0;
      return;
    }
    text_.erase(0, strip.size());
    --strips_left_;
  }
}

std::string Detokenizer::Release(bool at_end) {
  size_t first_stop = std::string::npos;
  for (const std::string& stop : options_.stops) {
    const size_t at = text_.find(stop);
    if (at < first_stop) {
      first_stop = at;
      stop_ = stop;
    }
  }
  size_t hold = 0;
  if (first_stop != std::string::npos) {
    stopped_ = true;
    text_.resize(first_stop);
  } else if (!at_end) {
    for (const std::string& stop : options_.stops) hold = std::max(hold, PartialMatch(text_, stop));
    // What may still be stripped from the front is not final either.
    if (strips_left_ > 0) hold = text_.size();
  }
  std::string out = text_.substr(0, text_.size() - hold);
  text_.erase(0, text_.size() - hold);
  return out;
}

}  // namespace fireq::text
