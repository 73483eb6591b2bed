#include "fireq/quant/recipe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "fireq/base/error.h"

namespace fireq::quant {
namespace {

using testing::AllOf;
using testing::HasSubstr;

std::string MessageOf(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing thrown";
}

TEST(Recipe, EveryBuiltinRoundTripsThroughJson) {
  for (const std::string& name : RecipeNames()) {
    const Recipe recipe = BuiltinRecipe(name);
    const nlohmann::json json = ToJson(recipe);
    EXPECT_EQ(json.at("base"), name);
    EXPECT_EQ(ToJson(ParseRecipe(json, "test")), json);
    EXPECT_NO_THROW(CheckRecipe(recipe)) << name;
    // Every key of the help is in the JSON and back.
    for (const RecipeKeyHelp& key : RecipeKeys()) EXPECT_TRUE(json.contains(key.key)) << key.key;
  }
}

TEST(Recipe, TheRivalsAreWhatTheirNamesSay) {
  const Recipe rtn = BuiltinRecipe("rtn");
  EXPECT_EQ(rtn.weights_grid, WeightGrid::kRtn);
  EXPECT_EQ(rtn.kv, KvGrid::kSymmetric);
  EXPECT_FALSE(rtn.rpn || rtn.crs || rtn.weights_t || rtn.weights_search);
  const Recipe fireq = BuiltinRecipe("fireq");
  EXPECT_EQ(fireq.cas, CasKind::kMean);
  EXPECT_TRUE(fireq.rpn && fireq.crs && fireq.weights_t && !fireq.weights_search);
  EXPECT_TRUE(fireq.CasLambda(1) && fireq.CasLambda(2) && fireq.CasLambda(3));
  EXPECT_EQ(BuiltinRecipe("fireq-absmax").cas, CasKind::kAbsMax);
  const Arithmetic qoq = ArithmeticOf(BuiltinRecipe("qoq"));
  EXPECT_EQ(qoq.activations, Activations::kInt8);
  EXPECT_EQ(qoq.kv, KvGrid::kAsymmetric);
  EXPECT_FALSE(qoq.e4m3_query || qoq.e4m3_probs);
}

TEST(Recipe, SettingsChangeWhatTheyName) {
  Recipe recipe = BuiltinRecipe("fireq");
  ApplySetting(recipe, "kv=asymmetric");
  ApplySetting(recipe, "weights.search=true");
  ApplySetting(recipe, "cas.lambdas=2,3");
  ApplySetting(recipe, "crs.top_k=3");
  ApplySetting(recipe, "rpn.alpha=0.5");
  ApplySetting(recipe, "activations=float");
  ApplySetting(recipe, "exclude=layers\\.0\\..*q_proj");
  EXPECT_EQ(recipe.kv, KvGrid::kAsymmetric);
  EXPECT_TRUE(recipe.weights_search);
  EXPECT_FALSE(recipe.CasLambda(1));
  EXPECT_TRUE(recipe.CasLambda(3));
  EXPECT_EQ(recipe.crs_top_k, 3);
  EXPECT_EQ(recipe.rpn_alpha, 0.5);
  EXPECT_EQ(ArithmeticOf(recipe).activations, Activations::kFloat);
  EXPECT_TRUE(ArithmeticOf(recipe).e4m3_query);
}

TEST(Recipe, NoPatternOfExcludeTakesForever) {
  const std::string name = "model.layers.12.self_attn.q_proj";
  EXPECT_FALSE(std::regex_search(name, ExcludePattern("(([a-z_.0-9]+)+)+X")));
  EXPECT_TRUE(std::regex_search(name, ExcludePattern("layers\\.(0|12)\\..*(q|k)_proj")));
}

TEST(Recipe, UnknownKeysAndValuesAreRefusedByName) {
  Recipe recipe;
  EXPECT_THAT(MessageOf([&] { ApplySetting(recipe, "weight.grid=rtn"); }),
              AllOf(HasSubstr("weight.grid"), HasSubstr("weights.grid")));
  EXPECT_THAT(MessageOf([&] { ApplySetting(recipe, "kv=int3"); }),
              AllOf(HasSubstr("int3"), HasSubstr("asymmetric")));
  EXPECT_THAT(MessageOf([&] { ApplySetting(recipe, "rpn.alpha=nan"); }), HasSubstr("rpn.alpha"));
  EXPECT_THAT(MessageOf([&] { ApplySetting(recipe, "crs.top_k=8x"); }), HasSubstr("8x"));
  EXPECT_THAT(MessageOf([&] { ApplySetting(recipe, "exclude=("); }), HasSubstr("exclude"));
  EXPECT_THAT(MessageOf([&] { ApplySetting(recipe, "exclude=(a)\\1"); }), HasSubstr("exclude"));
  const std::string deep = std::string(20'000, '(') + "a" + std::string(20'000, ')');
  EXPECT_THAT(MessageOf([&] { ApplySetting(recipe, "exclude=" + deep); }),
              HasSubstr("recipe: exclude has 40001 characters, at most 1000 are supported"));
  EXPECT_THAT(MessageOf([&] { ApplySetting(recipe, "cas.lambdas=1,4"); }), HasSubstr("1,4"));
  EXPECT_THAT(MessageOf([&] { ApplySetting(recipe, "kv"); }), HasSubstr("KEY=VALUE"));
  EXPECT_THAT(MessageOf([&] {
                ParseRecipe({{"base", "rtn"}, {"exclude", {"a", 1}}}, "my.json");
              }),
              HasSubstr("my.json: exclude: expected a text, a number or a boolean, got an array"));
  EXPECT_THAT(MessageOf([&] { BuiltinRecipe("gguf"); }),
              AllOf(HasSubstr("gguf"), HasSubstr("rtn")));
  EXPECT_THAT(MessageOf([&] {
                ParseRecipe({{"base", "rtn"}, {"kv", true}}, "my.json");
              }),
              AllOf(HasSubstr("my.json"), HasSubstr("kv")));
}

TEST(Recipe, ImpossibleCombinationsAreRefused) {
  Recipe recipe;
  ApplySetting(recipe, "weights.solver=gptq");
  ApplySetting(recipe, "weights.grid=none");
  EXPECT_THAT(MessageOf([&] { CheckRecipe(recipe); }), HasSubstr("weights.solver"));
  ApplySetting(recipe, "weights.grid=progressive");
  EXPECT_THAT(MessageOf([&] { CheckRecipe(recipe); }), HasSubstr("weights.solver"));
  Recipe int8;
  ApplySetting(int8, "activations=int8");
  EXPECT_THAT(MessageOf([&] { CheckRecipe(int8); }), HasSubstr("activations = int8"));
  ApplySetting(int8, "weights.grid=none");
  EXPECT_NO_THROW(CheckRecipe(int8));
  Recipe following;
  ApplySetting(following, "follow=true");
  EXPECT_THAT(MessageOf([&] { CheckRecipe(following); }), HasSubstr("follow"));
  Recipe pairs = BuiltinRecipe("qoq");
  ApplySetting(pairs, "rpn=true");
  EXPECT_THAT(MessageOf([&] { CheckRecipe(pairs); }), HasSubstr("smooth.qk"));
}

}  // namespace
}  // namespace fireq::quant
