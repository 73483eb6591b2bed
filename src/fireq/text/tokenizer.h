// Text <-> token ids, as a Hugging Face tokenizer.json states it.
//
//   added tokens -> normalizer -> pre-tokenizer -> BPE -> post-processor          (Encode)
//   token texts -> decoder -> UTF-8                                               (Decode)
//
// Ids equal those of the Hugging Face library. Immutable once made: any number of threads may use
// one Tokenizer. Time and memory are linear in the text (n log n inside one very long word).
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fireq/io/json.h"
#include "fireq/text/added_tokens.h"
#include "fireq/text/bpe.h"
#include "fireq/text/decoder.h"
#include "fireq/text/normalizer.h"
#include "fireq/text/post_processor.h"
#include "fireq/text/pre_tokenizer.h"

namespace fireq::text {

struct EncodeOptions {
  // Whether the post-processor adds its tokens (beginning of text, end of text).
  bool add_special = true;
  // Whether "<|im_end|>" in the text is that control token; false for text from strangers.
  bool parse_special = true;
};

class Tokenizer {
 public:
  // `spec` is a tokenizer.json, `config` a tokenizer_config.json or null; `name` opens every
  // message. Nothing of either is kept. Errors: kCorrupt for what contradicts itself, kUnsupported
  // for parts FireQ does not have; each names the JSON path and the value.
  Tokenizer(const nlohmann::json& spec, const nlohmann::json& config, const std::string& name);

  // Reads tokenizer.json and, where present, tokenizer_config.json of `directory`. Errors: also
  // kNotFound and kIo.
  static Tokenizer Load(const std::filesystem::path& directory);

  // Token ids of `text`. Errors: kInvalidArgument for bytes that are not UTF-8 (with their offset)
  // and for more than 1 GiB; kUnsupported if a regular expression gives up.
  std::vector<int32_t> Encode(std::string_view text, const EncodeOptions& options = {}) const;

  // UTF-8 text of `ids`; bytes that form no character become U+FFFD. Equals what a Detokenizer
  // gives token by token. Ids without a token (padding of the embedding) give nothing; negative
  // ids throw kInvalidArgument.
  std::string Decode(std::span<const int32_t> ids, bool skip_special = false) const;

  // kNoToken if there is no such token.
  int32_t IdOf(std::string_view token) const;
  // As written in the file (byte-level alphabet, or with U+2581 for spaces); empty if none.
  std::string_view TokenOf(int32_t id) const;
  bool IsSpecial(int32_t id) const;

  // One more than the largest id. A model's embedding may have more rows.
  int32_t vocab_size() const { return vocab_size_; }

  // From tokenizer_config.json; kNoToken where it names none.
  int32_t bos_id() const { return bos_id_; }
  int32_t eos_id() const { return eos_id_; }
  int32_t pad_id() const { return pad_id_; }
  int32_t unk_id() const { return unk_id_; }

  // Bytes that `id` adds to a text, maybe part of a character; see Detokenizer.
  void AppendBytes(int32_t id, bool first, std::string* out) const;
  const Decoder& decoder() const { return decoder_; }

 private:
  void ReadAddedTokens(const JsonObject& spec, const nlohmann::json& config,
                       const std::string& name);
  void ReadConfig(const nlohmann::json& config, const std::string& name);
  void CheckPostProcessor(const std::string& name) const;
  void SpellTokens();
  void EncodeSegment(std::string_view text, bool at_start, BpeScratch& scratch,
                     std::vector<int32_t>& ids) const;

  Normalizer normalizer_;
  PreTokenizer pre_tokenizer_;
  Bpe model_;
  AddedTokens added_;
  PostProcessor post_processor_;
  Decoder decoder_;
  std::string spelled_;                // bytes of every token, one after the other
  std::vector<size_t> spelled_begin_;  // by id, and the end
  int32_t vocab_size_ = 0;
  int32_t bos_id_ = kNoToken;
  int32_t eos_id_ = kNoToken;
  int32_t pad_id_ = kNoToken;
  int32_t unk_id_ = kNoToken;
};

}  // namespace fireq::text
