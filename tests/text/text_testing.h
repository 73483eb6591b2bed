// Real data for the tests of text: found through FIREQ_TEST_DATA, unpacked on the way.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "fireq/text/tokenizer.h"

namespace fireq::text {

// The folder of test data, or empty.
inline std::filesystem::path DataFolder() {
  const char* folder = std::getenv("FIREQ_TEST_DATA");
  return folder == nullptr ? std::filesystem::path() : std::filesystem::path(folder);
}

#define FIREQ_NEEDS_DATA(path)                                          \
  if (::fireq::text::DataFolder().empty() ||                            \
      !std::filesystem::exists(::fireq::text::DataFolder() / (path))) { \
    GTEST_SKIP() << (path) << " is not under FIREQ_TEST_DATA";          \
  }                                                                     \
  static_assert(true)

// Bytes of a file under the data folder; .gz is unpacked by gzip.
inline std::string ReadData(const std::string& path) {
  const std::string full = (DataFolder() / path).string();
  const std::string command = (path.ends_with(".gz") ? "gzip -dc '" : "cat '") + full + "'";
  const std::unique_ptr<FILE, int (*)(FILE*)> pipe(popen(command.c_str(), "r"), pclose);
  std::string out;
  char buffer[65536];
  while (const size_t size = fread(buffer, 1, sizeof(buffer), pipe.get())) out.append(buffer, size);
  return out;
}

// Ids separated by white space.
inline std::vector<int32_t> ParseIds(const std::string& text) {
  std::istringstream in(text);
  std::vector<int32_t> ids;
  for (int32_t id = 0; in >> id;) ids.push_back(id);
  return ids;
}

inline nlohmann::json ReadConfig(const std::string& name) {
  const std::string path = "tokenizers/" + name + "/tokenizer_config.json.gz";
  if (!std::filesystem::exists(DataFolder() / path)) return {};
  return nlohmann::json::parse(ReadData(path));
}

// The tokenizer of tokenizers/<name>.
inline Tokenizer LoadDataTokenizer(const std::string& name) {
  return Tokenizer(ParseJson(ReadData("tokenizers/" + name + "/tokenizer.json.gz"), name),
                   ReadConfig(name), name);
}

inline constexpr const char* kWiki = "wikitext-2-raw/wiki.test.raw";

inline void ExpectSameIds(const std::vector<int32_t>& got, const std::vector<int32_t>& want) {
  const auto at = std::ranges::mismatch(got, want).in1 - got.begin();
  ASSERT_EQ(got.size(), want.size()) << "first difference at " << at;
  ASSERT_EQ(at, static_cast<ptrdiff_t>(got.size())) << "first difference at " << at;
}

// All of wiki.test.raw, id for id, and back.
inline void ExpectWholeText(const Tokenizer& tokenizer, const std::string& ids_path) {
  const std::string text = ReadData(kWiki);
  const std::vector<int32_t> ids = tokenizer.Encode(text, {.add_special = false});
  ASSERT_GT(ids.size(), 200'000u);
  ExpectSameIds(ids, ParseIds(ReadData(ids_path)));
  EXPECT_EQ(tokenizer.Decode(ids), text);
}

struct EdgeCases {
  std::vector<std::string> texts;
  std::vector<std::vector<int32_t>> ids;
};

// llama.cpp's: STEM.inp and STEM.out, below the data folder or anywhere.
inline EdgeCases ReadEdgeCases(const std::string& stem) {
  const std::string input = ReadData(stem + ".inp");
  const std::string separator = "\n__ggml_vocab_test__\n";
  EdgeCases cases;
  for (size_t at = 0; at <= input.size();) {
    const size_t end = std::min(input.find(separator, at), input.size());
    cases.texts.push_back(input.substr(at, end - at));
    at = end + separator.size();
  }
  std::istringstream output(ReadData(stem + ".out"));
  for (std::string line; std::getline(output, line);) cases.ids.push_back(ParseIds(line));
  // The file ends with a separator: the last text is what follows it, not a case.
  if (cases.texts.size() == cases.ids.size() + 1) cases.texts.pop_back();
  return cases;
}

inline void ExpectEdgeCases(const Tokenizer& tokenizer, const std::string& stem) {
  const EdgeCases cases = ReadEdgeCases(stem);
  ASSERT_GT(cases.texts.size(), 30u);
  ASSERT_EQ(cases.texts.size(), cases.ids.size());
  for (size_t i = 0; i < cases.texts.size(); ++i) {
    EXPECT_EQ(tokenizer.Encode(cases.texts[i], {.add_special = false}), cases.ids[i])
        << "case " << i << ": " << cases.texts[i];
  }
}

// A small byte-level BPE: all bytes, " a", "ab", "abc" by merges, and one special token <s>.
nlohmann::json TinySpec();

}  // namespace fireq::text
