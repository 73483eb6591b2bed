// What tokenizer.ggml.pre names: the pre-tokenizers of byte-level BPE models.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace fireq::text {

struct GgufPreTokenizer {
  nlohmann::json steps;        // "pretokenizers" of a Sequence, without the ByteLevel at its end
  bool ignore_merges = false;  // a word that is a token is taken whole
  bool add_bos = false;        // unless tokenizer.ggml.add_bos_token says otherwise
};

// Errors: kUnsupported, naming `pre` and `place`, for a name FireQ does not know.
GgufPreTokenizer FindGgufPreTokenizer(const std::string& pre, const std::string& place);

}  // namespace fireq::text
