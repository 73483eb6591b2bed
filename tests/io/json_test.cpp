#include "fireq/io/json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "fireq/base/error.h"
#include "tests/io/io_testing.h"

namespace fireq {
namespace {

using ::testing::HasSubstr;

std::string ParseError(const std::string& text) {
  return ErrorOf([&] { ParseJson(text, "f.json"); }, ErrorCode::kCorrupt);
}

TEST(Json, ParsesWhatTheLibraryParses) {
  for (const char* text : {R"({"a":[1,-2,3.5,true,null,"x"],"b":{"c":{}},"d":[]})", "[]", "17",
                           R"("\u00e9\ud83d\ude00")", "18446744073709551615", "-0.0", " [1 ] ",
                           R"([[],[[]],{"a":[{"b":1},{"b":2}]}])"}) {
    EXPECT_EQ(ParseJson(text, "f.json"), nlohmann::json::parse(text)) << text;
  }
}

TEST(Json, NamesTheByteOfASyntaxError) {
  EXPECT_THAT(ParseError(R"({"a": 1,})"), HasSubstr("f.json: invalid JSON at byte 9"));
  EXPECT_THAT(ParseError(""), HasSubstr("byte 0"));
  EXPECT_THAT(ParseError("[1] x"), HasSubstr("byte 5"));
  EXPECT_THAT(ParseError("\"\xff\""), HasSubstr("ill-formed UTF-8"));
  EXPECT_THAT(ParseError("\"\xff\""), HasSubstr("last read: '\"\\xFF'"));
  EXPECT_THAT(ParseError("[1e999]"), HasSubstr("number overflow"));
  EXPECT_THAT(ParseError("{\"a\":"), HasSubstr("byte 5"));
  EXPECT_THAT(ParseError("[NaN]"), HasSubstr("byte 2"));
}

TEST(Json, RefusesDuplicateKeysByName) {
  EXPECT_THAT(ParseError(R"({"a":1,"b":{"c":[0,{"k":1,"k":2}]}})"),
              HasSubstr(R"(byte 29: duplicate key "k" in b.c[1])"));
  EXPECT_THAT(ParseError(R"({"a":null,"a":null})"), HasSubstr("duplicate key \"a\" in the top"));
  EXPECT_THAT(ParseError(R"({"a":1,"\u0061":2})"), HasSubstr("duplicate key \"a\""));
  EXPECT_NO_THROW(ParseJson(R"([{"a":1},{"a":1}])", "f.json"));
}

TEST(Json, LimitsNestingAndSize) {
  const auto nested = [](int depth) {
    return std::string(static_cast<size_t>(depth), '[') +
           std::string(static_cast<size_t>(depth), ']');
  };
  EXPECT_NO_THROW(ParseJson(nested(kMaxJsonDepth), "f.json"));
  EXPECT_THAT(ParseError(nested(kMaxJsonDepth + 1)), HasSubstr("nesting deeper than 64 levels"));
  EXPECT_THAT(ParseError(std::string(10'000'000, '[')), HasSubstr("byte 65: nesting"));
  EXPECT_THAT(ErrorOf([] { ParseJson("[1,2,3]", "f.json", 6); }, ErrorCode::kUnsupported),
              HasSubstr("7 bytes is above the limit of 6"));
}

TEST(Json, GettersNameThePlace) {
  const nlohmann::json json = ParseJson(
      R"({"hidden_size":"x","n":3,"f":1.5,"big":18446744073709551615,"null":null,"flag":1,
          "rope_scaling":{"factor":-2,"list":[1,"a"]},"eos":2})",
      "config.json");
  const JsonObject object(json, "config.json");
  EXPECT_EQ(object.Int("n", 1, 9), 3);
  EXPECT_EQ(object.Number("n", 0, 9), 3.0);
  EXPECT_EQ(object.Number("f", 0, 9), 1.5);
  EXPECT_EQ(object.IntOr("null", 1, 9, 7), 7);
  EXPECT_EQ(object.Ints("eos", 0, 9), std::vector<int64_t>{2});
  EXPECT_EQ(object.Ints("absent", 0, 9), std::vector<int64_t>{});
  EXPECT_EQ(ErrorOf([&] { object.Int("hidden_size", 1, 100); }, ErrorCode::kCorrupt),
            R"(config.json: hidden_size: expected an integer in 1..100, got "x")");
  EXPECT_EQ(ErrorOf([&] { object.Int("n", 4, 9); }, ErrorCode::kCorrupt),
            "config.json: n: expected an integer in 4..9, got 3");
  EXPECT_EQ(ErrorOf([&] { object.Int("big", 0, INT64_MAX); }, ErrorCode::kCorrupt),
            "config.json: big: expected an integer in 0..9223372036854775807, got "
            "18446744073709551615");
  EXPECT_EQ(ErrorOf([&] { object.Int("f", 0, 9); }, ErrorCode::kCorrupt),
            "config.json: f: expected an integer in 0..9, got 1.5");
  EXPECT_EQ(ErrorOf([&] { object.String("absent"); }, ErrorCode::kCorrupt),
            "config.json: absent: expected a string, got nothing");
  EXPECT_EQ(ErrorOf([&] { object.BoolOr("flag", true); }, ErrorCode::kCorrupt),
            "config.json: flag: expected true or false, got 1");
  const JsonObject rope = object.Object("rope_scaling");
  EXPECT_EQ(ErrorOf([&] { rope.Number("factor", 0, 1e9); }, ErrorCode::kCorrupt),
            "config.json: rope_scaling.factor: expected a number in 0..1e+09, got -2");
  EXPECT_EQ(ErrorOf([&] { rope.Ints("list", 0, 9); }, ErrorCode::kCorrupt),
            R"(config.json: rope_scaling.list[1]: expected an integer in 0..9, got "a")");
  EXPECT_EQ(ErrorOf([&] { rope.RefuseUnknownKeys({"factor"}); }, ErrorCode::kCorrupt),
            "config.json: rope_scaling.list: unknown key");
  EXPECT_EQ(ErrorOf([&] { object.Object("n"); }, ErrorCode::kCorrupt),
            "config.json: n: expected an object, got 3");
}

TEST(Json, ReadsFilesAndNamesThem) {
  EXPECT_THAT(ErrorOf([] { ReadJsonFile("/nonexistent/config.json"); }, ErrorCode::kNotFound),
              HasSubstr("/nonexistent/config.json"));
  EXPECT_THAT(ErrorOf([] { ReadJsonFile("/"); }, ErrorCode::kIo), HasSubstr("not a regular file"));
}

}  // namespace
}  // namespace fireq
