// Byte-pair encoding as the "model" of a tokenizer.json states it.
//
// A piece of text becomes initial symbols (bytes, or characters with byte fallback), then the pair
// with the lowest rank is merged, leftmost first, until none is left. Short words are merged in an
// array, long ones with a heap: n log n in the length of a word, linear in the text.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "fireq/io/json.h"
#include "fireq/text/merge_table.h"
#include "fireq/text/vocab.h"

namespace fireq::text {

// How the text that reaches the model is spelled.
enum class SymbolKind {
  kBytes,       // raw bytes, although the vocabulary is spelled in the byte-level alphabet
  kCharacters,  // UTF-8 characters, spelled as in the vocabulary
};

// What one thread needs while it encodes one text: buffers, and the words seen before.
class BpeScratch {
 public:
  // `text_bytes`: size of the text to come; the word cache is made to fit it.
  explicit BpeScratch(size_t text_bytes);

 private:
  friend class Bpe;
  struct CachedWord {
    uint64_t hash = 0;
    size_t text = 0;  // offset in words_
    uint32_t size = 0;
    uint32_t num_ids = 0;
    size_t first_id = 0;  // in the output
  };
  std::vector<CachedWord> cache_;  // direct-mapped by hash, a power of two
  std::string words_;
  std::vector<int32_t> ids_;
  std::vector<size_t> begins_;  // byte offset of each initial symbol, and the end
  std::vector<Merge> pairs_;    // what a symbol and the one after it become
  std::vector<int32_t> next_;
  std::vector<int32_t> previous_;
  std::vector<uint64_t> heap_;
};

class Bpe {
 public:
  // `model` is the "model" object. Errors: kUnsupported for another type of model or an option
  // FireQ does not have, kCorrupt for contradictions; each names the JSON path.
  Bpe(const JsonObject& model, SymbolKind symbols);

  // Appends the ids of `piece` (valid UTF-8; any bytes with kBytes), at most 1 GiB. `ids` must be
  // the same vector, only appended to, for the life of `scratch`.
  void Encode(std::string_view piece, BpeScratch& scratch, std::vector<int32_t>& ids) const;

  const Vocab& vocab() const { return vocab_; }
  int32_t unknown_id() const { return unknown_id_; }

 private:
  void ReadOptions(const JsonObject& model);
  void ReadVocab(const JsonObject& model);
  void ReadMerges(const JsonObject& model);
  void PrepareBytes();
  void PrepareCharacters();
  void NoteJoin(int32_t left, int32_t right);

  void EncodeBytes(std::string_view word, BpeScratch& scratch, std::vector<int32_t>& ids) const;
  void EncodeCharacters(std::string_view piece, BpeScratch& scratch,
                        std::vector<int32_t>& ids) const;
  void SpellCharacters(std::string_view piece, BpeScratch& scratch) const;
  template <class Spell>
  void EncodeWord(std::string_view word, BpeScratch& scratch, std::vector<int32_t>& ids,
                  const Spell& spell) const;
  size_t MergeShort(int32_t* symbols, size_t count, BpeScratch& scratch) const;
  size_t MergeLong(int32_t* symbols, size_t count, BpeScratch& scratch) const;

  Vocab vocab_;
  MergeTable merges_;
  SymbolKind symbols_;
  bool ignore_merges_ = false;
  bool byte_fallback_ = false;
  bool fuse_unknown_ = false;
  int32_t unknown_id_ = kNoToken;
  int32_t byte_ids_[256];  // kBytes: the symbol of a byte; kCharacters: the fallback <0x..>
  Vocab whole_words_;      // kBytes with ignore_merges: the vocabulary as raw bytes
  // kCharacters: neighbours that some merge can join; text is cut between all others, which makes
  // words of a text that has no pre-tokenizer.
  MergeTable joinable_;
  bool may_cut_ = true;
};

}  // namespace fireq::text
