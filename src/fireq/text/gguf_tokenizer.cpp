#include "fireq/text/gguf_tokenizer.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <utility>
#include <vector>

#include "fireq/base/error.h"
#include "fireq/io/json.h"
#include "fireq/text/gguf_pre_tokenizer.h"
#include "fireq/text/utf8.h"
#include "fireq/text/vocab.h"

namespace fireq::text {
namespace {

using Json = nlohmann::json;

// tokenizer.ggml.token_type
enum TokenType {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6
};

constexpr const char* kSpaceMark = "\xE2\x96\x81";  // U+2581
// A SentencePiece token is tried at every cut; real ones stay far below.
constexpr size_t kMaxScoredToken = 1024;

struct Vocabulary {
  std::vector<std::string> texts;
  std::vector<int64_t> types;
  Vocab index;
};

const Json& NeedArray(const JsonObject& metadata, const std::string& key, size_t size) {
  const Json* list = metadata.Find(key);
  FIREQ_CHECK(list != nullptr && list->is_array(), kCorrupt, metadata.PlaceOf(key),
              ": expected an array");
  FIREQ_CHECK(list->size() == size, kCorrupt, metadata.PlaceOf(key), ": ", list->size(),
              " entries for ", size, " tokens");
  return *list;
}

Vocabulary ReadVocabulary(const JsonObject& metadata) {
  Vocabulary vocabulary;
  vocabulary.texts = metadata.Strings("tokenizer.ggml.tokens");
  const size_t count = vocabulary.texts.size();
  const std::string place = metadata.PlaceOf("tokenizer.ggml.tokens");
  FIREQ_CHECK(count > 0 && count <= static_cast<size_t>(kMaxTokenId) + 1, kCorrupt, place, ": ",
              count, " tokens; expected 1..", kMaxTokenId + 1);
  vocabulary.index.Reserve(count);
  for (size_t i = 0; i < count; ++i) {
    const std::string& text = vocabulary.texts[i];
    FIREQ_CHECK(FindInvalidUtf8(text) == kNoOffset, kCorrupt, place, "[", i, "]: not UTF-8");
    FIREQ_CHECK(vocabulary.index.Add(text, static_cast<int32_t>(i)), kCorrupt, place, "[", i,
                "]: \"", text, "\" is token ", vocabulary.index.Find(text), " already");
  }
  vocabulary.types.assign(count, kNormal);
  if (metadata.Has("tokenizer.ggml.token_type")) {
    const Json& types = NeedArray(metadata, "tokenizer.ggml.token_type", count);
    for (size_t i = 0; i < count; ++i) {
      FIREQ_CHECK(types[i].is_number_integer(), kCorrupt,
                  metadata.PlaceOf("tokenizer.ggml.token_type"), "[", i,
                  "]: expected an integer, got ", DescribeJson(types[i]));
      vocabulary.types[i] = types[i].get<int64_t>();
    }
  }
  return vocabulary;
}

Json AddedTokensOf(const Vocabulary& vocabulary) {
  Json added = Json::array();
  for (size_t i = 0; i < vocabulary.texts.size(); ++i) {
    const int64_t type = vocabulary.types[i];
    if (type != kControl && type != kUserDefined && type != kUnknown) continue;
    if (vocabulary.texts[i].empty()) continue;
    added.push_back({{"id", i},
                     {"content", vocabulary.texts[i]},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", type != kUserDefined}});
  }
  return added;
}

// The text of the token that tokenizer.ggml.<key> points at; "" where the key is absent.
std::string NamedToken(const JsonObject& metadata, const Vocabulary& vocabulary,
                       const std::string& key) {
  const std::string full = "tokenizer.ggml." + key;
  // Some writers put -1 or 2^32 - 1 for "none".
  constexpr int64_t kNone = std::numeric_limits<uint32_t>::max();
  const int64_t id = metadata.IntOr(full, -1, kNone, -1);
  if (id == -1 || id == kNone) return "";
  FIREQ_CHECK(id < static_cast<int64_t>(vocabulary.texts.size()), kCorrupt, metadata.PlaceOf(full),
              ": id ", id, " in a vocabulary of ", vocabulary.texts.size());
  return vocabulary.texts[static_cast<size_t>(id)];
}

Json MakeTemplate(const Vocabulary& vocabulary, const std::string& bos, const std::string& eos) {
  Json single = Json::array();
  Json tokens = Json::object();
  const auto add = [&](const std::string& text) {
    if (text.empty()) return;
    single.push_back({{"SpecialToken", {{"id", text}, {"type_id", 0}}}});
    tokens[text] = {{"id", text},
                    {"ids", Json::array({vocabulary.index.Find(text)})},
                    {"tokens", Json::array({text})}};
  };
  add(bos);
  single.push_back({{"Sequence", {{"id", "A"}, {"type_id", 0}}}});
  add(eos);
  return {{"type", "TemplateProcessing"},
          {"single", single},
          {"pair", Json::array({{{"Sequence", {{"id", "A"}, {"type_id", 0}}}},
                                {{"Sequence", {{"id", "B"}, {"type_id", 1}}}}})},
          {"special_tokens", tokens}};
}

Json BpeModel(const Json& vocab, const Json& merges) {
  return {{"type", "BPE"},
          {"dropout", nullptr},
          {"unk_token", nullptr},
          {"fuse_unk", false},
          {"byte_fallback", false},
          {"ignore_merges", false},
          {"vocab", vocab},
          {"merges", merges},
          {"continuing_subword_prefix", nullptr},
          {"end_of_word_suffix", nullptr}};
}

// tokenizer.ggml.model "gpt2".
Json ConvertByteLevel(const JsonObject& metadata, const Vocabulary& vocabulary,
                      const GgufPreTokenizer& pre) {
  Json vocab = Json::object();
  for (size_t i = 0; i < vocabulary.texts.size(); ++i) {
    // Where words are looked up whole, a control token must not be a word.
    if (pre.ignore_merges && vocabulary.types[i] == kControl) continue;
    vocab[vocabulary.texts[i]] = i;
  }
  const Json* merges = metadata.Find("tokenizer.ggml.merges");
  FIREQ_CHECK(merges != nullptr && merges->is_array(), kCorrupt,
              metadata.PlaceOf("tokenizer.ggml.merges"), ": expected an array");
  const bool prefix_space = metadata.BoolOr("tokenizer.ggml.add_space_prefix", false);
  // No model with such a tokenizer is known, so nothing could be checked.
  FIREQ_CHECK(!prefix_space, kUnsupported, metadata.PlaceOf("tokenizer.ggml.add_space_prefix"),
              ": true is not supported for byte-level BPE");
  const Json byte_level = {{"type", "ByteLevel"},
                           {"add_prefix_space", false},
                           {"trim_offsets", true},
                           {"use_regex", false}};
  Json steps = pre.steps;
  steps.push_back(byte_level);
  Json model = BpeModel(vocab, *merges);
  model["ignore_merges"] = pre.ignore_merges;
  return {{"normalizer", nullptr},
          {"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", steps}}},
          {"decoder", byte_level},
          {"model", model}};
}

struct ScoredMerge {
  double score;
  int32_t left;
  int32_t right;
};

// All cuts of token `id` into two tokens, best first as SentencePiece prefers them.
void AppendCuts(const Vocabulary& vocabulary, int32_t id, double score,
                std::vector<ScoredMerge>& merges) {
  const std::string_view text = vocabulary.texts[static_cast<size_t>(id)];
  const size_t first = merges.size();
  for (size_t at = text.empty() ? 0 : static_cast<size_t>(CharLength(text, 0)); at < text.size();
       at += static_cast<size_t>(CharLength(text, at))) {
    const int32_t left = vocabulary.index.Find(text.substr(0, at));
    const int32_t right = vocabulary.index.Find(text.substr(at));
    if (left != kNoToken && right != kNoToken) merges.push_back({score, left, right});
  }
  std::sort(merges.begin() + static_cast<ptrdiff_t>(first), merges.end(),
            [](const ScoredMerge& a, const ScoredMerge& b) {
              return std::pair(a.left, a.right) < std::pair(b.left, b.right);
            });
}

// SentencePiece merges the pair whose joined token has the highest score: a list of merges sorted
// by that score does the same.
Json MergesFromScores(const JsonObject& metadata, const Vocabulary& vocabulary) {
  const std::string key = "tokenizer.ggml.scores";
  const Json& scores = NeedArray(metadata, key, vocabulary.texts.size());
  std::vector<ScoredMerge> merges;
  for (size_t i = 0; i < vocabulary.texts.size(); ++i) {
    FIREQ_CHECK(scores[i].is_number() && scores[i].get<double>() == scores[i].get<double>(),
                kCorrupt, metadata.PlaceOf(key), "[", i, "]: expected a number, got ",
                DescribeJson(scores[i]));
    if (vocabulary.types[i] != kNormal) continue;
    FIREQ_CHECK(vocabulary.texts[i].size() <= kMaxScoredToken, kUnsupported,
                metadata.PlaceOf("tokenizer.ggml.tokens"), "[", i, "]: a token of ",
                vocabulary.texts[i].size(), " bytes; at most ", kMaxScoredToken);
    AppendCuts(vocabulary, static_cast<int32_t>(i), scores[i].get<double>(), merges);
  }
  std::ranges::stable_sort(merges, std::greater<>(), &ScoredMerge::score);
  Json list = Json::array();
  for (const ScoredMerge& merge : merges) {
    list.push_back(Json::array({vocabulary.texts[static_cast<size_t>(merge.left)],
                                vocabulary.texts[static_cast<size_t>(merge.right)]}));
  }
  return list;
}

// tokenizer.ggml.model "llama".
Json ConvertSentencePiece(const JsonObject& metadata, const Vocabulary& vocabulary) {
  const bool prefix_space = metadata.BoolOr("tokenizer.ggml.add_space_prefix", true);
  Json vocab = Json::object();
  for (size_t i = 0; i < vocabulary.texts.size(); ++i) vocab[vocabulary.texts[i]] = i;
  Json normalizers = Json::array();
  if (prefix_space) normalizers.push_back({{"type", "Prepend"}, {"prepend", kSpaceMark}});
  normalizers.push_back(
      {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", kSpaceMark}});
  Json decoders =
      Json::array({{{"type", "Replace"}, {"pattern", {{"String", kSpaceMark}}}, {"content", " "}},
                   {{"type", "ByteFallback"}},
                   {{"type", "Fuse"}}});
  if (prefix_space) {
    decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  }
  Json model = BpeModel(vocab, MergesFromScores(metadata, vocabulary));
  model["byte_fallback"] = true;
  model["fuse_unk"] = true;
  const std::string unknown = NamedToken(metadata, vocabulary, "unknown_token_id");
  if (!unknown.empty()) model["unk_token"] = unknown;
  return {{"normalizer", {{"type", "Sequence"}, {"normalizers", normalizers}}},
          {"pre_tokenizer", nullptr},
          {"decoder", {{"type", "Sequence"}, {"decoders", decoders}}},
          {"model", model}};
}

Json MakeConfig(const JsonObject& metadata, const Vocabulary& vocabulary, bool add_bos,
                bool add_eos) {
  Json config = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                 {"clean_up_tokenization_spaces", false},
                 {"add_bos_token", add_bos},
                 {"add_eos_token", add_eos}};
  const std::pair<const char*, const char*> names[] = {{"bos_token", "bos_token_id"},
                                                       {"eos_token", "eos_token_id"},
                                                       {"unk_token", "unknown_token_id"},
                                                       {"pad_token", "padding_token_id"}};
  for (const auto& [name, key] : names) {
    const std::string text = NamedToken(metadata, vocabulary, key);
    if (!text.empty()) config[name] = text;
  }
  const auto template_of = [&](const std::string& key) {
    const std::string source = metadata.StringOr(key, "");
    FIREQ_CHECK(FindInvalidUtf8(source) == kNoOffset, kCorrupt, metadata.PlaceOf(key),
                ": not UTF-8");
    return source;
  };
  const std::string chat_template = template_of("tokenizer.chat_template");
  const std::string with_tools = template_of("tokenizer.chat_template.tool_use");
  if (!chat_template.empty()) config["chat_template"] = chat_template;
  if (!chat_template.empty() && !with_tools.empty()) {
    config["chat_template"] = Json::array({{{"name", "default"}, {"template", chat_template}},
                                           {{"name", "tool_use"}, {"template", with_tools}}});
  }
  return config;
}

}  // namespace

TokenizerFiles ConvertGgufTokenizer(const Json& metadata_json, const std::string& name) {
  const JsonObject metadata(metadata_json, name);
  const std::string model = metadata.String("tokenizer.ggml.model");
  const bool scored = model == "llama";
  FIREQ_CHECK(scored || model == "gpt2", kUnsupported, metadata.PlaceOf("tokenizer.ggml.model"),
              ": the tokenizer \"", model, "\" is not supported");
  const Vocabulary vocabulary = ReadVocabulary(metadata);
  TokenizerFiles files;
  bool add_bos = scored;
  if (scored) {
    files.tokenizer = ConvertSentencePiece(metadata, vocabulary);
  } else {
    const GgufPreTokenizer pre = FindGgufPreTokenizer(
        metadata.StringOr("tokenizer.ggml.pre", "default"), metadata.PlaceOf("tokenizer.ggml.pre"));
    add_bos = pre.add_bos;
    files.tokenizer = ConvertByteLevel(metadata, vocabulary, pre);
  }
  add_bos = metadata.BoolOr("tokenizer.ggml.add_bos_token", add_bos);
  const bool add_eos = metadata.BoolOr("tokenizer.ggml.add_eos_token", false);
  const std::string bos = NamedToken(metadata, vocabulary, "bos_token_id");
  const std::string eos = NamedToken(metadata, vocabulary, "eos_token_id");
  files.tokenizer["version"] = "1.0";
  files.tokenizer["truncation"] = nullptr;
  files.tokenizer["padding"] = nullptr;
  files.tokenizer["added_tokens"] = AddedTokensOf(vocabulary);
  files.tokenizer["post_processor"] =
      MakeTemplate(vocabulary, add_bos ? bos : "", add_eos ? eos : "");
  files.config = MakeConfig(metadata, vocabulary, add_bos, add_eos);
  return files;
}

}  // namespace fireq::text
