#include "fireq/text/tokenizer.h"

#include <algorithm>
#include <charconv>

#include "fireq/base/error.h"
#include "fireq/text/detokenizer.h"
#include "fireq/text/utf8.h"

namespace fireq::text {
namespace {

// Builds a part from spec[key], or its default where the key is absent or null.
template <class Part>
Part MakePart(const JsonObject& spec, const std::string& key) {
  return spec.Has(key) ? Part(spec.Object(key)) : Part();
}

SymbolKind SymbolsOf(const Normalizer& normalizer, const PreTokenizer& pre_tokenizer) {
  return normalizer.makes_byte_level() ? SymbolKind::kCharacters : pre_tokenizer.symbols();
}

// A special token in tokenizer_config.json: a string, or an object with its content.
std::string TokenText(const JsonObject& config, const std::string& key) {
  const nlohmann::json* value = config.Find(key);
  if (value == nullptr) return "";
  return value->is_object() ? config.Object(key).String("content") : config.String(key);
}

int32_t ParseId(const std::string& text, const std::string& place) {
  int32_t id = 0;
  const char* end = text.data() + text.size();
  const auto result = std::from_chars(text.data(), end, id);
  FIREQ_CHECK(result.ec == std::errc() && result.ptr == end && id >= 0 && id <= kMaxTokenId,
              kCorrupt, place, ": expected a token id in 0..", kMaxTokenId, ", got \"", text, "\"");
  return id;
}

}  // namespace

Tokenizer::Tokenizer(const nlohmann::json& spec_json, const nlohmann::json& config,
                     const std::string& name)
    : normalizer_(MakePart<Normalizer>(JsonObject(spec_json, name), "normalizer")),
      pre_tokenizer_(MakePart<PreTokenizer>(JsonObject(spec_json, name), "pre_tokenizer")),
      model_(JsonObject(spec_json, name).Object("model"), SymbolsOf(normalizer_, pre_tokenizer_)) {
  const JsonObject spec(spec_json, name);
  post_processor_ = MakePart<PostProcessor>(spec, "post_processor");
  decoder_ = MakePart<Decoder>(spec, "decoder");
  ReadAddedTokens(spec, config, name);
  vocab_size_ = std::max(model_.vocab().end_id(), added_.end_id());
  unk_id_ = model_.unknown_id();
  if (!config.is_null()) ReadConfig(config, name);
  CheckPostProcessor(name);
  SpellTokens();
}

Tokenizer Tokenizer::Load(const std::filesystem::path& directory) {
  const auto config_path = directory / "tokenizer_config.json";
  const nlohmann::json config =
      std::filesystem::exists(config_path) ? ReadJsonFile(config_path) : nlohmann::json();
  const auto path = directory / "tokenizer.json";
  return Tokenizer(ReadJsonFile(path), config, path.string());
}

void Tokenizer::ReadAddedTokens(const JsonObject& spec, const nlohmann::json& config,
                                const std::string& name) {
  if (const nlohmann::json* list = spec.Find("added_tokens")) {
    FIREQ_CHECK(list->is_array(), kCorrupt, spec.PlaceOf("added_tokens"), ": expected an array");
    for (size_t i = 0; i < list->size(); ++i) {
      const JsonObject token((*list)[i], StrCat(spec.PlaceOf("added_tokens"), "[", i, "]"));
      added_.Add(token, static_cast<int32_t>(token.Int("id", 0, kMaxTokenId)), model_.vocab());
    }
  }
  // The configuration may know tokens that the tokenizer.json lacks.
  const std::string config_name = name + " (tokenizer_config.json)";
  if (config.is_object() && JsonObject(config, config_name).Has("added_tokens_decoder")) {
    const JsonObject more = JsonObject(config, config_name).Object("added_tokens_decoder");
    for (const auto& [id_text, token] : more.value().items()) {
      const int32_t id = ParseId(id_text, more.place());
      if (added_.ById(id) == nullptr) {
        added_.Add(JsonObject(token, more.PlaceOf(id_text)), id, model_.vocab());
      }
    }
  }
  added_.Finish(normalizer_);
}

void Tokenizer::ReadConfig(const nlohmann::json& config_json, const std::string& name) {
  const JsonObject config(config_json, name + " (tokenizer_config.json)");
  const auto id_of = [&](const std::string& key) {
    const std::string text = TokenText(config, key);
    const int32_t id = text.empty() ? kNoToken : IdOf(text);
    FIREQ_CHECK(text.empty() || id != kNoToken, kCorrupt, config.PlaceOf(key), ": \"", text,
                "\" is not a token");
    return id;
  };
  bos_id_ = id_of("bos_token");
  eos_id_ = id_of("eos_token");
  pad_id_ = id_of("pad_token");
  if (config.Has("unk_token")) unk_id_ = id_of("unk_token");
}

void Tokenizer::CheckPostProcessor(const std::string& name) const {
  for (const auto* side : {&post_processor_.prefix(), &post_processor_.suffix()}) {
    for (const int32_t id : *side) {
      FIREQ_CHECK(id < vocab_size_, kCorrupt, name, ": post_processor: id ", id,
                  " in a vocabulary of ", vocab_size_);
    }
  }
}

void Tokenizer::SpellTokens() {
  spelled_begin_.reserve(static_cast<size_t>(vocab_size_) + 1);
  for (int32_t id = 0; id < vocab_size_; ++id) {
    spelled_begin_.push_back(spelled_.size());
    const bool exists = added_.ById(id) != nullptr || model_.vocab().Has(id);
    if (exists) spelled_ += decoder_.Spell(TokenOf(id), false);
  }
  spelled_begin_.push_back(spelled_.size());
}

std::vector<int32_t> Tokenizer::Encode(std::string_view text, const EncodeOptions& options) const {
  FIREQ_CHECK(text.size() <= kMaxTextBytes, kInvalidArgument, "a text of ", text.size(),
              " bytes; at most ", kMaxTextBytes, " can be tokenised at once");
  const size_t invalid = FindInvalidUtf8(text);
  FIREQ_CHECK(invalid == kNoOffset, kInvalidArgument, "the text is not UTF-8 at byte ", invalid,
              " of ", text.size());
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 3 + 8);
  if (options.add_special) ids = post_processor_.prefix();
  BpeScratch scratch(text.size());
  for (const Segment& raw : added_.SplitRaw(text, options.parse_special)) {
    if (raw.id != kNoToken) {
      ids.push_back(raw.id);
      continue;
    }
    const std::string normal = normalizer_.Apply(raw.span.Of(text));
    for (const Segment& part : added_.SplitNormalized(normal, options.parse_special)) {
      if (part.id != kNoToken) {
        ids.push_back(part.id);
        continue;
      }
      const bool at_start = raw.span.begin == 0 && part.span.begin == 0;
      EncodeSegment(part.span.Of(normal), at_start, scratch, ids);
    }
  }
  if (options.add_special) {
    ids.insert(ids.end(), post_processor_.suffix().begin(), post_processor_.suffix().end());
  }
  return ids;
}

void Tokenizer::EncodeSegment(std::string_view text, bool at_start, BpeScratch& scratch,
                              std::vector<int32_t>& ids) const {
  Pieces pieces;
  pieces.text = std::string(text);
  pieces.at_text_start = at_start;
  pre_tokenizer_.Apply(&pieces);
  for (const Span& span : pieces.spans) model_.Encode(span.Of(pieces.text), scratch, ids);
}

std::string Tokenizer::Decode(std::span<const int32_t> ids, bool skip_special) const {
  Detokenizer stream(*this, {.skip_special = skip_special});
  std::string text;
  for (const int32_t id : ids) text += stream.Add(id);
  return text += stream.Flush();
}

int32_t Tokenizer::IdOf(std::string_view token) const {
  const int32_t added = added_.Find(token);
  return added != kNoToken ? added : model_.vocab().Find(token);
}

std::string_view Tokenizer::TokenOf(int32_t id) const {
  const AddedToken* added = added_.ById(id);
  return added != nullptr ? std::string_view(added->content) : model_.vocab().TextOf(id);
}

bool Tokenizer::IsSpecial(int32_t id) const {
  const AddedToken* added = added_.ById(id);
  return added != nullptr && added->special;
}

void Tokenizer::AppendBytes(int32_t id, bool first, std::string* out) const {
  FIREQ_CHECK(id >= 0, kInvalidArgument, "token id ", id, " is negative");
  if (id >= vocab_size_) return;
  if (first && decoder_.first_differs()) {
    *out += decoder_.Spell(TokenOf(id), true);
    return;
  }
  const auto at = static_cast<size_t>(id);
  out->append(spelled_, spelled_begin_[at], spelled_begin_[at + 1] - spelled_begin_[at]);
}

}  // namespace fireq::text
