#include "fireq/quant/recipe.h"

#include <cmath>
#include <functional>
#include <optional>
#include <sstream>
#include <utility>

#include "fireq/base/error.h"
#include "fireq/base/number_text.h"
#include "fireq/io/json.h"

namespace fireq::quant {
namespace {

using Json = nlohmann::json;

struct Key {
  std::string_view name;
  std::string values;
  std::string_view about;
  std::function<Json(const Recipe&)> get;
  std::function<void(Recipe&, const std::string&)> set;
};

[[noreturn]] void Refuse(std::string_view key, const std::string& value, const std::string& takes) {
  Throw(ErrorCode::kInvalidArgument,
        StrCat("recipe: ", key, " = \"", value, "\": expected ", takes));
}

template <class E>
Key EnumKey(std::string_view name, E Recipe::*member, std::vector<std::pair<E, std::string>> values,
            std::string_view about) {
  std::string list;
  for (const auto& [value, text] : values) list += (list.empty() ? "" : "|") + text;
  const auto get = [member, values](const Recipe& recipe) -> Json {
    for (const auto& [value, text] : values)
      if (recipe.*member == value) return text;
    return nullptr;
  };
  const auto set = [member, values, name, list](Recipe& recipe, const std::string& given) {
    for (const auto& [value, text] : values) {
      if (given != text) continue;
      recipe.*member = value;
      return;
    }
    Refuse(name, given, list);
  };
  return {name, list, about, get, set};
}

// A flag; besides true and false it takes the two names, e.g. "e4m3" and "float".
Key FlagKey(std::string_view name, bool Recipe::*member, const std::string& on,
            const std::string& off, std::string_view about) {
  const std::string list = StrCat(on, "|", off);
  const bool plain = on == "true";
  const auto get = [=](const Recipe& recipe) -> Json {
    if (plain) return recipe.*member;
    return recipe.*member ? on : off;
  };
  const auto set = [=](Recipe& recipe, const std::string& given) {
    if (given != on && given != off) Refuse(name, given, list);
    recipe.*member = given == on;
  };
  return {name, list, about, get, set};
}

Key NumberKey(std::string_view name, double Recipe::*member, double min, double max,
              std::string_view about) {
  const std::string list = StrCat("a number in ", min, "..", max);
  const auto set = [=](Recipe& recipe, const std::string& given) {
    const std::optional<double> value = ParseNumber(given);
    if (!value || !(*value >= min && *value <= max)) Refuse(name, given, list);
    recipe.*member = *value;
  };
  return {name, list, about, [member](const Recipe& recipe) -> Json { return recipe.*member; },
          set};
}

Key IntKey(std::string_view name, int64_t Recipe::*member, int64_t min, int64_t max,
           std::string_view about) {
  const std::string list = StrCat("an integer in ", min, "..", max);
  const auto set = [=](Recipe& recipe, const std::string& given) {
    size_t used = 0;
    int64_t value = 0;
    try {
      value = std::stoll(given, &used);
    } catch (const std::exception&) {
      used = 0;
    }
    if (used == 0 || used != given.size() || value < min || value > max) Refuse(name, given, list);
    recipe.*member = value;
  };
  return {name, list, about, [member](const Recipe& recipe) -> Json { return recipe.*member; },
          set};
}

Key LambdasKey() {
  const std::string takes = "a comma-separated subset of 1,2,3";
  const auto set = [takes](Recipe& recipe, const std::string& given) {
    std::istringstream parts(given);
    std::string part;
    while (std::getline(parts, part, ','))
      if (part != "1" && part != "2" && part != "3") Refuse("cas.lambdas", given, takes);
    if (given.empty() || given.back() == ',') Refuse("cas.lambdas", given, takes);
    recipe.cas_lambdas = given;
  };
  return {"cas.lambdas", takes, "which inputs CAS scales: 1 = o, 2 = gate|up, 3 = down",
          [](const Recipe& recipe) -> Json { return recipe.cas_lambdas; }, set};
}

// The library compiles a pattern by recursion.
constexpr int64_t kMaxExclude = 1000;

Key ExcludeKey() {
  const auto set = [](Recipe& recipe, const std::string& given) {
    FIREQ_CHECK(std::ssize(given) <= kMaxExclude, kInvalidArgument, "recipe: exclude has ",
                given.size(), " characters, at most ", kMaxExclude, " are supported");
    try {
      ExcludePattern(given);
    } catch (const std::regex_error& error) {
      Refuse("exclude", given, StrCat("an ECMAScript regular expression (", error.what(), ")"));
    }
    recipe.exclude = given;
  };
  return {"exclude", "REGEX",
          "linears whose name it finds stay BF16; q, k, v and gate, up go together",
          [](const Recipe& recipe) -> Json { return recipe.exclude; }, set};
}

using Keyring = std::vector<Key>;

void AddWeightKeys(Keyring& keys) {
  using R = Recipe;
  keys.push_back(EnumKey<WeightGrid>("weights.grid", &R::weights_grid,
                                     {{WeightGrid::kNone, "none"},
                                      {WeightGrid::kRtn, "rtn"},
                                      {WeightGrid::kSigned, "signed"},
                                      {WeightGrid::kAsymmetric, "asym"},
                                      {WeightGrid::kProgressive, "progressive"}},
                                     "the 16 values of a group of weights"));
  keys.push_back(FlagKey("weights.search", &R::weights_search, "true", "false",
                         "search clipping (and the sign) of each group's scale"));
  keys.push_back(FlagKey("weights.t", &R::weights_t, "true", "false",
                         "power of two per matrix against underflow of group scales"));
  keys.push_back(EnumKey<ErrorProducts>("weights.products", &R::weights_products,
                                        {{ErrorProducts::kTable, "table"},
                                         {ErrorProducts::kExact, "exact"},
                                         {ErrorProducts::kMean, "mean"}},
                                        "the products that errors are measured with"));
  keys.push_back(EnumKey<WeightSolver>(
      "weights.solver", &R::weights_solver,
      {{WeightSolver::kNearest, "nearest"}, {WeightSolver::kGptq, "gptq"}},
      "codes one by one, or error-compensated with the Hessian of the layer's input"));
  keys.push_back(NumberKey("weights.damping", &R::weights_damping, 0.0, 100.0,
                           "times the mean of diag(X^T X), added to the diagonal"));
  keys.push_back(IntKey("weights.sweeps", &R::weights_sweeps, 0, 100,
                        "rounds of coordinate descent on scales and codes after gptq"));
  keys.push_back(FlagKey("follow", &R::follow, "true", "false",
                         "calibrate on the model as quantised so far and correct its errors"));
  keys.push_back(NumberKey("follow.damping", &R::follow_damping, 0.0, 100.0,
                           "as weights.damping, of the correction"));
  keys.push_back(FlagKey("follow.head", &R::follow_head, "true", "false",
                         "correct lm_head as well, if the model stores one; it stays BF16"));
  keys.push_back(NumberKey("follow.head.damping", &R::follow_head_damping, 0.0, 100.0,
                           "as follow.damping, of lm_head"));
}

void AddFoldKeys(Keyring& keys) {
  using R = Recipe;
  keys.push_back(EnumKey<CasKind>(
      "cas", &R::cas,
      {{CasKind::kNone, "none"}, {CasKind::kMean, "mean"}, {CasKind::kAbsMax, "absmax"}},
      "channel-wise scaling folded into the layer in front"));
  keys.push_back(LambdasKey());
  keys.push_back(FlagKey("rpn", &R::rpn, "true", "false",
                         "pre-RoPE normalisation of K's channel pairs, undone in Q"));
  keys.push_back(NumberKey("rpn.alpha", &R::rpn_alpha, 1e-3, 1e3, "pair norm after RPN"));
  keys.push_back(FlagKey("crs", &R::crs, "true", "false",
                         "post-RoPE scaling of K's largest channels, undone in Q"));
  keys.push_back(NumberKey("crs.beta", &R::crs_beta, 1e-3, 1e3, "channel maximum after CRS"));
  keys.push_back(IntKey("crs.top_k", &R::crs_top_k, 0, 1024, "channels (with their partners)"));
  keys.push_back(
      FlagKey("balance.qk", &R::balance_qk, "true", "false",
              "pair factors that make |K D| |Q / D| least; for hadamard.qk, not with rpn"));
  keys.push_back(FlagKey("smooth.qk", &R::smooth_qk, "true", "false",
                         "pair factors 1 / sqrt(pair norm): QServe's SmoothAttention"));
  keys.push_back(NumberKey("shift.k", &R::shift_k, 0.0, 1.0,
                           "times the mean of K's channels after RoPE: subtracted from K, which "
                           "softmax does not see"));
  keys.push_back(FlagKey("rotate.residual", &R::rotate_residual, "true", "false",
                         "rotate the residual stream; norms are folded, lm_head is untied"));
  keys.push_back(
      FlagKey("rotate.v", &R::rotate_v, "true", "false", "rotate each head of V, undone in o"));
  keys.push_back(FlagKey("hadamard.qk", &R::hadamard_qk, "true", "false",
                         "Hadamard transform of each head of Q and K after RoPE, at run time"));
  keys.push_back(IntKey("seed", &R::seed, 0, int64_t{1} << 53, "of the random rotations"));
}

void AddArithmeticKeys(Keyring& keys) {
  using R = Recipe;
  keys.push_back(EnumKey<KvGrid>("kv", &R::kv,
                                 {{KvGrid::kFloat, "float"},
                                  {KvGrid::kSymmetric, "symmetric"},
                                  {KvGrid::kSigned, "signed"},
                                  {KvGrid::kAsymmetric, "asymmetric"}},
                                 "K and V in the cache"));
  keys.push_back(EnumKey<Activations>("activations", &R::activations,
                                      {{Activations::kE4M3, Name(Activations::kE4M3)},
                                       {Activations::kInt8, Name(Activations::kInt8)},
                                       {Activations::kFloat, Name(Activations::kFloat)}},
                                      "inputs of linears: e4m3 of quantised ones, int8 of others"));
  keys.push_back(FlagKey("query", &R::e4m3_query, "e4m3", "float", "Q into attention"));
  keys.push_back(FlagKey("probs", &R::e4m3_probs, "e4m3", "float", "probabilities into PV"));
  keys.push_back(
      FlagKey("borders", &R::bf16_borders, "bf16", "f32", "what crosses a kernel's border"));
  keys.push_back(ExcludeKey());
}

Keyring MakeKeys() {
  Keyring keys;
  AddWeightKeys(keys);
  AddFoldKeys(keys);
  AddArithmeticKeys(keys);
  return keys;
}

const std::vector<Key>& Keys() {
  static const std::vector<Key> keys = MakeKeys();
  return keys;
}

// The paper, in the form its reference run uses.
Recipe FireQ(CasKind cas) {
  Recipe recipe;
  recipe.name = cas == CasKind::kMean ? "fireq" : "fireq-absmax";
  recipe.weights_t = true;
  recipe.cas = cas;
  recipe.rpn = true;
  recipe.crs = true;
  return recipe;
}

// QServe's QoQ as far as its numbers go.
Recipe Qoq() {
  Recipe recipe;
  recipe.name = "qoq";
  recipe.weights_grid = WeightGrid::kProgressive;
  recipe.weights_search = true;
  recipe.smooth_qk = true;
  recipe.kv = KvGrid::kAsymmetric;
  recipe.activations = Activations::kInt8;
  recipe.e4m3_query = false;
  recipe.e4m3_probs = false;
  return recipe;
}

// Chosen by KL on calibration text (docs/QUANTISATION.md, "How the default was chosen").
Recipe Default() {
  Recipe recipe;
  recipe.name = "default";
  recipe.weights_grid = WeightGrid::kAsymmetric;
  recipe.weights_search = true;
  recipe.weights_t = true;
  recipe.weights_products = ErrorProducts::kMean;
  recipe.weights_solver = WeightSolver::kGptq;
  recipe.weights_sweeps = 3;
  recipe.follow = true;
  recipe.follow_head = true;
  recipe.rotate_residual = true;
  recipe.rotate_v = true;
  recipe.hadamard_qk = true;
  recipe.shift_k = 1.0;
  recipe.kv = KvGrid::kAsymmetric;
  return recipe;
}

}  // namespace

bool Recipe::CasLambda(int which) const {
  return cas != CasKind::kNone && cas_lambdas.find(std::to_string(which)) != std::string::npos;
}

std::regex ExcludePattern(const std::string& exclude) {
  auto syntax = std::regex_constants::ECMAScript;
#ifdef __GLIBCXX__
  // Without it "((a+)+)+b" takes time that is exponential in a name's length.
  syntax |= std::regex_constants::__polynomial;
#endif
  return std::regex(exclude, syntax);
}

bool StoresCodes(const Recipe& recipe) {
  return recipe.weights_grid != WeightGrid::kNone &&
         recipe.weights_grid != WeightGrid::kProgressive;
}

std::vector<std::string> RecipeNames() {
  return {"default", "fireq", "fireq-absmax", "qoq", "rtn"};
}

std::vector<RecipeKeyHelp> RecipeKeys() {
  std::vector<RecipeKeyHelp> out;
  for (const Key& key : Keys())
    out.push_back({std::string(key.name), key.values, std::string(key.about)});
  return out;
}

Recipe BuiltinRecipe(std::string_view name) {
  if (name == "default") return Default();
  if (name == "fireq") return FireQ(CasKind::kMean);
  if (name == "fireq-absmax") return FireQ(CasKind::kAbsMax);
  if (name == "qoq") return Qoq();
  if (name == "rtn") return Recipe{};
  std::string list;
  for (const std::string& known : RecipeNames()) list += " " + known;
  Throw(ErrorCode::kNotFound,
        StrCat("recipe \"", name, "\" does not exist; there are:", list, " auto, or a .json file"));
}

Recipe LoadRecipe(const std::string& name_or_path) {
  if (!name_or_path.ends_with(".json") && name_or_path.find('/') == std::string::npos)
    return BuiltinRecipe(name_or_path);
  return ParseRecipe(ReadJsonFile(name_or_path), name_or_path);
}

void SetRecipeKey(Recipe& recipe, std::string_view key, const std::string& value) {
  std::string list;
  for (const Key& known : Keys()) {
    if (known.name == key) return known.set(recipe, value);
    list += StrCat(" ", known.name);
  }
  Throw(ErrorCode::kInvalidArgument, StrCat("recipe: unknown key \"", key, "\"; there are:", list));
}

void ApplySetting(Recipe& recipe, const std::string& assignment) {
  const size_t equals = assignment.find('=');
  FIREQ_CHECK(equals != std::string::npos, kInvalidArgument, "--set ", assignment,
              ": expected KEY=VALUE");
  SetRecipeKey(recipe, assignment.substr(0, equals), assignment.substr(equals + 1));
}

void CheckRecipe(const Recipe& recipe) {
  FIREQ_CHECK(recipe.weights_solver != WeightSolver::kGptq || StoresCodes(recipe), kInvalidArgument,
              "recipe: weights.solver = gptq needs weights.grid other than none and progressive");
  FIREQ_CHECK(recipe.weights_grid != WeightGrid::kProgressive || recipe.exclude.empty(),
              kInvalidArgument,
              "recipe: weights.grid = progressive with exclude = ", recipe.exclude,
              ": it rounds every linear");
  FIREQ_CHECK(recipe.activations != Activations::kInt8 || !StoresCodes(recipe), kInvalidArgument,
              "recipe: activations = int8 needs weights.grid = progressive or none: no kernel "
              "multiplies INT8 by our codes");
  FIREQ_CHECK(recipe.weights_sweeps == 0 || recipe.weights_solver == WeightSolver::kGptq,
              kInvalidArgument, "recipe: weights.sweeps = ", recipe.weights_sweeps,
              " needs weights.solver = gptq");
  FIREQ_CHECK(!recipe.follow || recipe.weights_solver == WeightSolver::kGptq, kInvalidArgument,
              "recipe: follow = true needs weights.solver = gptq");
  FIREQ_CHECK(recipe.rpn + recipe.balance_qk + recipe.smooth_qk <= 1, kInvalidArgument,
              "recipe: of rpn, balance.qk and smooth.qk more than one sets the factors of K's "
              "channel pairs");
}

Json ToJson(const Recipe& recipe) {
  Json out = Json::object();
  out["base"] = recipe.name;
  for (const Key& key : Keys()) out[std::string(key.name)] = key.get(recipe);
  return out;
}

Recipe ParseRecipe(const Json& value, const std::string& place) {
  const JsonObject object(value, place);
  Recipe recipe = BuiltinRecipe(object.StringOr("base", "default"));
  for (const auto& [key, entry] : value.items()) {
    if (key == "base") continue;
    FIREQ_CHECK(entry.is_string() || entry.is_number() || entry.is_boolean(), kCorrupt, place, ": ",
                key, ": expected a text, a number or a boolean, got ", DescribeJson(entry));
    try {
      SetRecipeKey(recipe, key, entry.is_string() ? entry.get<std::string>() : entry.dump());
    } catch (const Error& error) {
      Throw(error.code(), StrCat(place, ": ", error.what()));
    }
  }
  return recipe;
}

Arithmetic ArithmeticOf(const Recipe& recipe) {
  Arithmetic arithmetic;
  arithmetic.bf16_borders = recipe.bf16_borders;
  arithmetic.activations = recipe.activations;
  if (arithmetic.activations == Activations::kE4M3 && !StoresCodes(recipe))
    arithmetic.activations = Activations::kFloat;
  arithmetic.e4m3_query = recipe.e4m3_query;
  arithmetic.e4m3_probs = recipe.e4m3_probs;
  arithmetic.kv = recipe.kv;
  return arithmetic;
}

}  // namespace fireq::quant
