// JSON as it comes from strangers: parsed with limits, read through getters that name the place.
//
// Stricter than the grammar: a key that occurs twice in an object is refused (two readers of such a
// file may disagree on what it says), and so are nesting deeper than kMaxJsonDepth and texts above
// a size limit. Not synchronised; parsed values are plain nlohmann::json.
#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace fireq {

inline constexpr int kMaxJsonDepth = 64;
inline constexpr int64_t kMaxJsonBytes = int64_t{256} << 20;

// Parses all of `text` (UTF-8). `name` opens every message (a path, or what the text is).
// Errors: kCorrupt with the byte offset for bad syntax, bad UTF-8, a duplicate key (with the key
// and its JSON path) or too deep nesting; kUnsupported above `max_bytes`.
nlohmann::json ParseJson(std::string_view text, const std::string& name,
                         int64_t max_bytes = kMaxJsonBytes);

// ParseJson of a file's bytes. Errors: also kNotFound and kIo.
nlohmann::json ReadJsonFile(const std::filesystem::path& path, int64_t max_bytes = kMaxJsonBytes);

// One line that shows `value` in a message: scalars as JSON, at most ~60 characters, containers as
// "an array of 3".
std::string DescribeJson(const nlohmann::json& value);

// A JSON object together with the place it came from, e.g. "config.json: rope_scaling". Keeps a
// pointer: the json must outlive it. A null value counts as absent, as Hugging Face files mean it.
//
// Every getter throws kCorrupt such as
//   config.json: hidden_size: expected an integer in 1..1048576, got "x"
// when the key is absent (plain form) or has the wrong type or range (both forms); the ...Or forms
// return `fallback` when it is absent.
class JsonObject {
 public:
  // Throws kCorrupt if `value` is not an object.
  JsonObject(const nlohmann::json& value, std::string place);

  const nlohmann::json& value() const { return *value_; }
  const std::string& place() const { return place_; }
  // "config.json: hidden_size" or "config.json: rope_scaling.factor".
  std::string PlaceOf(const std::string& key) const;

  bool Has(const std::string& key) const { return Find(key) != nullptr; }
  // The value at `key`, or nullptr if absent or null.
  const nlohmann::json* Find(const std::string& key) const;

  int64_t Int(const std::string& key, int64_t min, int64_t max) const;
  int64_t IntOr(const std::string& key, int64_t min, int64_t max, int64_t fallback) const;
  // Finite numbers, integers included.
  double Number(const std::string& key, double min, double max) const;
  double NumberOr(const std::string& key, double min, double max, double fallback) const;
  bool Bool(const std::string& key) const;
  bool BoolOr(const std::string& key, bool fallback) const;
  std::string String(const std::string& key) const;
  std::string StringOr(const std::string& key, std::string fallback) const;
  JsonObject Object(const std::string& key) const;
  // A list of integers; a lone integer counts as a list of one (as eos_token_id is written). Empty
  // if absent.
  std::vector<int64_t> Ints(const std::string& key, int64_t min, int64_t max) const;
  std::vector<double> Numbers(const std::string& key, double min, double max) const;
  std::vector<std::string> Strings(const std::string& key) const;

  // Throws kCorrupt at the first key that is not in `known`.
  void RefuseUnknownKeys(const std::vector<std::string_view>& known) const;

 private:
  const nlohmann::json& Need(const std::string& key, std::string_view expected) const;

  const nlohmann::json* value_;
  std::string place_;
};

}  // namespace fireq
