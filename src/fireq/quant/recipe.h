// A recipe: every choice the quantiser makes, as one checked struct.
//
// A recipe is written as flat JSON with dotted keys, the same spelling as `--set KEY=VALUE`:
//   {"base": "fireq", "kv": "asymmetric", "weights.grid": "signed"}
// `base` names the built-in that the other keys change (absent: "default"). The JSON of the recipe
// that made a checkpoint is echoed into it. docs/QUANTISATION.md explains every key.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <regex>
#include <string>
#include <string_view>
#include <vector>

#include "fireq/checkpoint/quant_config.h"
#include "fireq/ops/input_fit.h"

namespace fireq::quant {

// How the 16 values of a group are placed (served arithmetic, "Grids and searches").
enum class WeightGrid : uint8_t {
  kNone,         // linears stay BF16
  kRtn,          // codes -7..7 around zero point 8: the paper's
  kSigned,       // zero point 8, a scale of either sign
  kAsymmetric,   // a zero point a group
  kProgressive,  // a rival's (progressive.h), stored as BF16 values: to be measured, not served
};

using fireq::ErrorProducts;

// How codes are found once scales and zero points are.
enum class WeightSolver : uint8_t {
  kNearest,  // each weight by itself
  kGptq,     // error-compensated, by the Hessian of the layer's input
};

enum class CasKind : uint8_t { kNone, kMean, kAbsMax };

// Without changes: plain rounding, "rtn".
struct Recipe {
  std::string name = "rtn";  // of the built-in it started from

  WeightGrid weights_grid = WeightGrid::kRtn;
  bool weights_search = false;
  bool weights_t = false;
  ErrorProducts weights_products = ErrorProducts::kTable;
  WeightSolver weights_solver = WeightSolver::kNearest;
  double weights_damping = 0.1;  // of the mean of diag(X^T X), added to all of it
  int64_t weights_sweeps = 0;    // rounds of coordinate descent after GPTQ, on scales and codes

  bool follow = false;  // calibrate on the model as quantised so far, corrected for its errors
  double follow_damping = 1.0;  // of the mean of diag(X^T X): holds corrected weights to the given
  bool follow_head = false;     // lm_head too, which stays BF16
  double follow_head_damping = 0.1;

  CasKind cas = CasKind::kNone;
  std::string cas_lambdas = "1,2,3";  // o; gate|up; down

  bool rpn = false;
  double rpn_alpha = 8.0;
  bool crs = false;
  double crs_beta = 8.0;
  int64_t crs_top_k = 8;
  bool balance_qk = false;
  bool smooth_qk = false;
  double shift_k = 0.0;  // of the mean of K after RoPE, subtracted at run time

  bool rotate_residual = false;
  bool rotate_v = false;
  bool hadamard_qk = false;
  int64_t seed = 0;

  KvGrid kv = KvGrid::kSymmetric;
  Activations activations = Activations::kE4M3;
  bool e4m3_query = true;
  bool e4m3_probs = true;
  bool bf16_borders = true;

  std::string exclude;  // ECMAScript regex searched in linear names; empty: none

  bool CasLambda(int which) const;  // which = 1, 2, 3
};

// The compiled form of Recipe::exclude; without back-references. Throws std::regex_error.
std::regex ExcludePattern(const std::string& exclude);

// Whether linears that are not excluded become codes.
bool StoresCodes(const Recipe& recipe);

// Names of the built-in recipes, e.g. for a message.
std::vector<std::string> RecipeNames();

// One line a key: name, values, meaning; for --help and docs.
struct RecipeKeyHelp {
  std::string key, values, about;
};
std::vector<RecipeKeyHelp> RecipeKeys();

// The built-in `name`; throws kNotFound listing what exists.
Recipe BuiltinRecipe(std::string_view name);

// A built-in's name or the path of a JSON file (anything that ends in ".json" or has a slash).
// Errors: kNotFound, kCorrupt, and what SetRecipeKey throws, with the file's name.
Recipe LoadRecipe(const std::string& name_or_path);

// `value` as on the command line. Throws kInvalidArgument for an unknown key (listing all) or a
// value that the key does not take (naming what it takes).
void SetRecipeKey(Recipe& recipe, std::string_view key, const std::string& value);

// "KEY=VALUE" as given to --set.
void ApplySetting(Recipe& recipe, const std::string& assignment);

// Throws kInvalidArgument for combinations that no kernel serves, naming the keys.
void CheckRecipe(const Recipe& recipe);

nlohmann::json ToJson(const Recipe& recipe);
Recipe ParseRecipe(const nlohmann::json& json, const std::string& place);

// What a model made by `recipe` rounds.
Arithmetic ArithmeticOf(const Recipe& recipe);

}  // namespace fireq::quant
