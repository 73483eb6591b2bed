#include "fireq/checkpoint/quant_config.h"

#include <array>
#include <nlohmann/json.hpp>
#include <utility>

#include "fireq/base/error.h"
#include "fireq/checkpoint/schema.h"
#include "fireq/formats/int4.h"
#include "fireq/io/json.h"

namespace fireq {
namespace {

struct NamedGrid {
  KvGrid grid;
  const char* name;
};
constexpr std::array<NamedGrid, 4> kGrids = {{{KvGrid::kFloat, "float"},
                                              {KvGrid::kSymmetric, "symmetric"},
                                              {KvGrid::kSigned, "signed"},
                                              {KvGrid::kAsymmetric, "asymmetric"}}};

// One of two names; throws kUnsupported naming the JSON path and both.
bool IsFirst(const JsonObject& object, const std::string& key, const char* first,
             const char* second) {
  const std::string value = object.String(key);
  FIREQ_CHECK(value == first || value == second, kUnsupported, object.PlaceOf(key), ": expected \"",
              first, "\" or \"", second, "\", got ", DescribeJson(value));
  return value == first;
}

constexpr std::array kActivations = {std::pair{Activations::kE4M3, "e4m3"},
                                     std::pair{Activations::kInt8, "int8"},
                                     std::pair{Activations::kFloat, "float"}};

Activations ParseActivations(const JsonObject& object) {
  const std::string value = object.String("activations");
  std::string names;
  for (const auto& [activations, name] : kActivations) {
    if (value == name) return activations;
    names += StrCat(names.empty() ? "" : " or ", "\"", name, "\"");
  }
  Throw(ErrorCode::kUnsupported,
        StrCat(object.PlaceOf("activations"), ": expected ", names, ", got ", DescribeJson(value)));
}

Arithmetic ParseArithmetic(const JsonObject& object) {
  object.RefuseUnknownKeys({"borders", "activations", "query", "probs", "kv"});
  Arithmetic out;
  out.bf16_borders = IsFirst(object, "borders", "bf16", "f32");
  out.activations = ParseActivations(object);
  out.e4m3_query = IsFirst(object, "query", "e4m3", "float");
  out.e4m3_probs = IsFirst(object, "probs", "e4m3", "float");
  const std::string kv = object.String("kv");
  for (const NamedGrid& named : kGrids) {
    if (kv != named.name) continue;
    out.kv = named.grid;
    return out;
  }
  Throw(ErrorCode::kUnsupported, StrCat(object.PlaceOf("kv"), ": unknown grid ", DescribeJson(kv)));
}

}  // namespace

const char* Name(Activations activations) {
  for (const auto& [known, name] : kActivations) {
    if (known == activations) return name;
  }
  return "?";
}

const char* Name(KvGrid grid) {
  for (const NamedGrid& named : kGrids) {
    if (named.grid == grid) return named.name;
  }
  return "?";
}

KvGrid ParseKvGrid(const std::string& name) {
  std::string names;
  for (const NamedGrid& named : kGrids) {
    if (name == named.name) return named.grid;
    names += (names.empty() ? "" : ", ") + std::string(named.name);
  }
  Throw(ErrorCode::kInvalidArgument, StrCat("unknown K and V grid \"", name, "\" (", names, ")"));
}

QuantConfig ParseQuantConfig(const nlohmann::json& quantization_config) {
  const JsonObject object(quantization_config, "config.json: quantization_config");
  const std::string method = object.String("quant_method");
  FIREQ_CHECK(method == kQuantMethod, kUnsupported, object.PlaceOf("quant_method"), ": ",
              DescribeJson(method), " is not supported (\"", kQuantMethod, "\" is)");
  const int64_t version = object.Int("format_version", 1, INT32_MAX);
  FIREQ_CHECK(version <= kFormatVersion, kUnsupported, object.PlaceOf("format_version"), ": ",
              version, " is newer than this FireQ, which reads up to ", kFormatVersion);
  const int64_t group = object.Int("group_size", 1, INT32_MAX);
  FIREQ_CHECK(group == kGroup, kUnsupported, object.PlaceOf("group_size"), ": ", group,
              " is not supported (", kGroup, " is)");
  object.RefuseUnknownKeys({"quant_method", "format_version", "group_size", "arithmetic", "crs",
                            "key_shift", "qk_hadamard", "excluded", "recipe"});
  QuantConfig out;
  out.arithmetic = ParseArithmetic(object.Object("arithmetic"));
  out.crs = object.Bool("crs");
  if (object.Has("key_shift")) out.key_shift = object.Bool("key_shift");
  out.qk_hadamard = object.Bool("qk_hadamard");
  out.excluded = object.Strings("excluded");
  if (object.Has("recipe")) out.recipe_json = object.Object("recipe").value().dump();
  return out;
}

nlohmann::json ToJson(const QuantConfig& config) {
  const Arithmetic& a = config.arithmetic;
  const auto e4m3_or_float = [](bool e4m3) { return e4m3 ? "e4m3" : "float"; };
  return {{"quant_method", kQuantMethod},
          {"format_version", kFormatVersion},
          {"group_size", kGroup},
          {"arithmetic",
           {{"borders", a.bf16_borders ? "bf16" : "f32"},
            {"activations", Name(a.activations)},
            {"query", e4m3_or_float(a.e4m3_query)},
            {"probs", e4m3_or_float(a.e4m3_probs)},
            {"kv", Name(a.kv)}}},
          {"crs", config.crs},
          {"key_shift", config.key_shift},
          {"qk_hadamard", config.qk_hadamard},
          {"excluded", config.excluded},
          {"recipe", ParseJson(config.recipe_json, "recipe")}};
}

}  // namespace fireq
