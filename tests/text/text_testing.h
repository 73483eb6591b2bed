// Real data for the tests of text: found through FIREQ_TEST_DATA, unpacked on the way.
#pragma once

#include <gtest/gtest.h>

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

// A small byte-level BPE: all bytes, " a", "ab", "abc" by merges, and one special token <s>.
nlohmann::json TinySpec();

}  // namespace fireq::text
