#include "fireq/text/gguf_pre_tokenizer.h"

#include <algorithm>
#include <iterator>
#include <string_view>

#include "fireq/base/error.h"

namespace fireq::text {
namespace {

// The patterns are those of the models' own tokenizer.json files.
constexpr std::string_view kGpt2 =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr std::string_view kLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|)"
    R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|)"
    R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kTekken =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|)"
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|)"
    R"(\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kGpt4o =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+)"
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*)"
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
    R"(\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

enum class Digits { kByPattern, kOneByOne };

struct Row {
  std::string_view name;
  std::string_view pattern;
  Digits digits = Digits::kByPattern;
  bool ignore_merges = false;
  bool add_bos = false;
};

constexpr Row kRows[] = {
    {"gpt-2", kGpt2},
    {"gpt2", kGpt2},
    {"phi-2", kGpt2},
    {"mpt", kGpt2},
    {"olmo", kGpt2},
    {"jais", kGpt2},
    {"smollm", kGpt2, Digits::kOneByOne},
    {"starcoder", kGpt2, Digits::kOneByOne},
    {"refact", kGpt2, Digits::kOneByOne},
    {"command-r", kGpt2, Digits::kOneByOne},
    {"codeshell", kGpt2, Digits::kOneByOne},
    {"exaone", kGpt2, Digits::kOneByOne},
    {"llama3", kLlama3, Digits::kByPattern, true, true},
    {"llama-v3", kLlama3, Digits::kByPattern, true, true},
    {"llama-bpe", kLlama3, Digits::kByPattern, true, true},
    {"dbrx", kLlama3},
    {"smaug-bpe", kLlama3},
    {"qwen2", kQwen2},
    {"stablelm2", kQwen2},
    {"deepseek-r1-qwen", kQwen2},
    {"megrez", kQwen2},
    {"tekken", kTekken, Digits::kByPattern, true, true},
    {"gpt-4o", kGpt4o},
    {"llama4", kGpt4o},
};

}  // namespace

GgufPreTokenizer FindGgufPreTokenizer(const std::string& pre, const std::string& place) {
  const Row* row = std::ranges::find(kRows, pre, &Row::name);
  FIREQ_CHECK(row != std::end(kRows), kUnsupported, place, ": the pre-tokenizer \"", pre,
              "\" is not supported");
  GgufPreTokenizer result;
  result.ignore_merges = row->ignore_merges;
  result.add_bos = row->add_bos;
  result.steps = nlohmann::json::array();
  if (row->digits == Digits::kOneByOne) {
    result.steps.push_back({{"type", "Digits"}, {"individual_digits", true}});
  }
  result.steps.push_back({{"type", "Split"},
                          {"pattern", {{"Regex", row->pattern}}},
                          {"behavior", "Isolated"},
                          {"invert", false}});
  return result;
}

}  // namespace fireq::text
