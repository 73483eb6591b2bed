// Building a Bpe from the "model" object of a tokenizer.json.
#include <algorithm>
#include <cstdio>

#include "fireq/base/error.h"
#include "fireq/text/bpe.h"
#include "fireq/text/byte_level.h"
#include "fireq/text/utf8.h"

namespace fireq::text {
namespace {

std::string ByteTokenName(int byte) {
  char name[8];
  std::snprintf(name, sizeof(name), "<0x%02X>", static_cast<unsigned>(byte));
  return name;
}

struct MergeText {
  std::string_view left;
  std::string_view right;
};

// Both spellings of an entry of "merges": "left right" and ["left", "right"].
MergeText ReadMerge(const nlohmann::json& entry, const JsonObject& model, size_t index) {
  const auto place = [&] { return StrCat(model.PlaceOf("merges"), "[", index, "]"); };
  if (entry.is_string()) {
    const std::string_view text = entry.get_ref<const std::string&>();
    const size_t space = text.find(' ');
    FIREQ_CHECK(space != std::string_view::npos && text.find(' ', space + 1) == text.npos, kCorrupt,
                place(), ": expected two tokens with one space between them, got ",
                DescribeJson(entry));
    return {text.substr(0, space), text.substr(space + 1)};
  }
  FIREQ_CHECK(entry.is_array() && entry.size() == 2 && entry[0].is_string() && entry[1].is_string(),
              kCorrupt, place(), ": expected a pair of tokens, got ", DescribeJson(entry));
  return {entry[0].get_ref<const std::string&>(), entry[1].get_ref<const std::string&>()};
}

}  // namespace

Bpe::Bpe(const JsonObject& model, SymbolKind symbols) : symbols_(symbols) {
  std::ranges::fill(byte_ids_, kNoToken);
  ReadOptions(model);
  ReadVocab(model);
  const std::string unknown = model.StringOr("unk_token", "");
  if (!unknown.empty()) {
    unknown_id_ = vocab_.Find(unknown);
    FIREQ_CHECK(unknown_id_ != kNoToken, kCorrupt, model.PlaceOf("unk_token"), ": \"", unknown,
                "\" is not in the vocabulary");
  }
  symbols_ == SymbolKind::kBytes ? PrepareBytes() : PrepareCharacters();
  ReadMerges(model);
}

void Bpe::ReadOptions(const JsonObject& model) {
  // Old files leave the type out; "merges" tells BPE from the others.
  const std::string type = model.StringOr("type", model.Has("merges") ? "BPE" : "unknown");
  FIREQ_CHECK(type == "BPE", kUnsupported, model.PlaceOf("type"), ": a tokenizer of type ", type,
              "; FireQ has BPE");
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const std::string affix = model.StringOr(key, "");
    FIREQ_CHECK(affix.empty(), kUnsupported, model.PlaceOf(key), ": \"", affix,
                "\" is not supported");
  }
  const double dropout = model.NumberOr("dropout", 0, 1, 0);
  FIREQ_CHECK(dropout == 0, kUnsupported, model.PlaceOf("dropout"), ": ", dropout,
              " would make encoding random");
  ignore_merges_ = model.BoolOr("ignore_merges", false);
  byte_fallback_ = model.BoolOr("byte_fallback", false);
  fuse_unknown_ = model.BoolOr("fuse_unk", false);
}

void Bpe::ReadVocab(const JsonObject& model) {
  const JsonObject vocab = model.Object("vocab");
  FIREQ_CHECK(!vocab.value().empty(), kCorrupt, vocab.place(), ": no tokens");
  vocab_.Reserve(vocab.value().size());
  for (const auto& [text, id] : vocab.value().items()) {
    const bool in_range =
        id.is_number_integer() && id.get<int64_t>() >= 0 && id.get<int64_t>() <= kMaxTokenId;
    FIREQ_CHECK(in_range, kCorrupt, vocab.PlaceOf(text), ": expected a token id in 0..",
                kMaxTokenId, ", got ", DescribeJson(id));
    const auto number = id.get<int32_t>();
    FIREQ_CHECK(vocab_.Add(text, number), kCorrupt, vocab.PlaceOf(text), ": \"",
                vocab_.TextOf(number), "\" has the id ", number, " already");
  }
}

void Bpe::ReadMerges(const JsonObject& model) {
  const nlohmann::json* merges = model.Find("merges");
  FIREQ_CHECK(merges != nullptr && merges->is_array(), kCorrupt, model.PlaceOf("merges"),
              ": expected an array of pairs of tokens");
  merges_ = MergeTable(merges->size());
  if (symbols_ == SymbolKind::kCharacters) joinable_ = MergeTable(merges->size());
  std::string merged;
  for (size_t i = 0; i < merges->size(); ++i) {
    const MergeText texts = ReadMerge((*merges)[i], model, i);
    const int32_t left = vocab_.Find(texts.left);
    const int32_t right = vocab_.Find(texts.right);
    merged.assign(texts.left).append(texts.right);
    const int32_t id = vocab_.Find(merged);
    FIREQ_CHECK(left != kNoToken && right != kNoToken && id != kNoToken, kCorrupt,
                model.PlaceOf("merges"), "[", i, "]: \"",
                left == kNoToken    ? texts.left
                : right == kNoToken ? texts.right
                                    : merged,
                "\" is not in the vocabulary");
    merges_.Add(left, right, {static_cast<uint32_t>(i), id});
    if (symbols_ == SymbolKind::kCharacters) NoteJoin(left, right);
  }
}

void Bpe::PrepareBytes() {
  std::string name;
  for (int byte = 0; byte < 256; ++byte) {
    name.clear();
    AppendUtf8(name, ByteToChar(static_cast<unsigned char>(byte)));
    byte_ids_[byte] = vocab_.Find(name);
    if (byte_ids_[byte] == kNoToken) byte_ids_[byte] = unknown_id_;
  }
  if (!ignore_merges_) return;
  whole_words_.Reserve(vocab_.num_tokens());
  std::string bytes;
  for (int32_t id = 0; id < vocab_.end_id(); ++id) {
    if (vocab_.Has(id) && FromByteLevel(vocab_.TextOf(id), &bytes)) whole_words_.Add(bytes, id);
  }
}

void Bpe::PrepareCharacters() {
  if (!byte_fallback_) return;
  for (int byte = 0; byte < 256; ++byte) byte_ids_[byte] = vocab_.Find(ByteTokenName(byte));
}

// Records that `left` can be merged with `right`: the last character of the one and the first of
// the other must stay in one word. Tokens that stand for a byte or for the unknown are symbols of
// their own; if one takes part in a merge, nothing is cut.
void Bpe::NoteJoin(int32_t left, int32_t right) {
  const auto is_special = [&](int32_t id) {
    return id == unknown_id_ || (byte_fallback_ && vocab_.TextOf(id).starts_with("<0x") &&
                                 std::ranges::find(byte_ids_, id) != std::end(byte_ids_));
  };
  const std::string_view left_text = vocab_.TextOf(left);
  const std::string_view right_text = vocab_.TextOf(right);
  if (left_text.empty() || right_text.empty() || is_special(left) || is_special(right)) {
    may_cut_ = false;
    return;
  }
  const size_t last = PreviousChar(left_text, left_text.size());
  const auto first = static_cast<size_t>(CharLength(right_text, 0));
  const int32_t before = vocab_.Find(left_text.substr(last));
  const int32_t after = vocab_.Find(right_text.substr(0, first));
  if (before != kNoToken && after != kNoToken) joinable_.Add(before, after, {0, 0});
}

}  // namespace fireq::text
