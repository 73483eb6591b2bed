// The tokenizer inside a GGUF file, rewritten as Hugging Face files.
//
// There is one implementation of tokenizing, and a checkpoint made from a GGUF file carries
// ordinary tokenizer.json and tokenizer_config.json files.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace fireq::text {

struct TokenizerFiles {
  nlohmann::json tokenizer;  // tokenizer.json
  nlohmann::json config;     // tokenizer_config.json, with "chat_template" if the file has one
};

// `metadata`: key -> value as GgufFile gives it; `name` opens every message. Reads
// tokenizer.ggml.model "gpt2" (byte-level BPE with one of the pre-tokenizers that
// tokenizer.ggml.pre can name) and "llama" (SentencePiece BPE by scores, with byte fallback).
//
// Errors: kUnsupported for other models and pre-tokenizers, by name; kCorrupt for missing keys,
// arrays of different lengths, ids out of range, tokens that are not UTF-8, each with its place.
TokenizerFiles ConvertGgufTokenizer(const nlohmann::json& metadata, const std::string& name);

}  // namespace fireq::text
