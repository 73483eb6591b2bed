// Files and texts that lie, contradict themselves or are far too large.
#include <chrono>
#include <functional>

#include "fireq/base/error.h"
#include "fireq/text/gguf_tokenizer.h"
#include "fireq/text/regex.h"
#include "fireq/text/unicode_normal.h"
#include "tests/text/text_testing.h"

namespace fireq::text {
namespace {

using Json = nlohmann::json;

std::string ErrorOf(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

// What Tokenizer says of TinySpec after `change`.
std::string ErrorAfter(const std::function<void(Json&)>& change) {
  Json spec = TinySpec();
  change(spec);
  return ErrorOf([&] { Tokenizer(spec, {}, "t"); });
}

TEST(HostileTokenizer, ErrorsNameThePlace) {
  EXPECT_EQ(ErrorAfter([](Json& s) { s.erase("model"); }).substr(0, 8), "t: model");
  EXPECT_EQ(ErrorAfter([](Json& s) { s["model"]["type"] = "WordPiece"; }),
            "t: model.type: a tokenizer of type WordPiece; FireQ has BPE");
  EXPECT_EQ(ErrorAfter([](Json& s) { s["model"]["vocab"]["zz"] = 5; }).find("t: model.vocab."), 0u);
  EXPECT_EQ(ErrorAfter([](Json& s) { s["model"]["vocab"]["zz"] = -5; }).find("t: model.vocab.zz"),
            0u);
  EXPECT_EQ(ErrorAfter([](Json& s) { s["model"]["vocab"]["zz"] = 1e18; }).find("t: model.vocab.zz"),
            0u);
  EXPECT_EQ(ErrorAfter([](Json& s) { s["model"]["merges"].push_back("a zz"); }),
            "t: model.merges[3]: \"zz\" is not in the vocabulary");
  EXPECT_EQ(ErrorAfter([](Json& s) {
              s["model"]["merges"].push_back("a");
            }).find("t: model.merges[3]: expected"),
            0u);
  EXPECT_EQ(ErrorAfter([](Json& s) { s["model"]["merges"][0] = 7; }).find("t: model.merges[0]"),
            0u);
  EXPECT_EQ(
      ErrorAfter([](Json& s) { s["added_tokens"][0]["id"] = 260; }).find("t: added_tokens[1]"), 0u);
  EXPECT_EQ(ErrorAfter([](Json& s) {
              s["added_tokens"][0].erase("content");
            }).find("t: added_tokens[0].content"),
            0u);
  EXPECT_EQ(ErrorAfter([](Json& s) {
              s["pre_tokenizer"] = {{"type", "Magic"}};
            }),
            "t: pre_tokenizer.type: the pre-tokenizer Magic is not supported");
  EXPECT_EQ(ErrorAfter([](Json& s) {
              s["normalizer"] = {{"type", "Precompiled"}};
            }),
            "t: normalizer.type: the normalizer Precompiled is not supported");
  EXPECT_EQ(ErrorAfter([](Json& s) {
              s["pre_tokenizer"] = {{"type", "Split"}, {"pattern", {{"Regex", "(a"}}}};
            }).find("t: pre_tokenizer: the regular expression"),
            0u);
}

TEST(HostileTokenizer, SequencesMayNotNestWithoutEnd) {
  const auto nest = [](Json& s) {
    Json inner = {{"type", "NFC"}};
    for (int i = 0; i < 40; ++i) {
      inner = {{"type", "Sequence"}, {"normalizers", Json::array({inner})}};
    }
    s["normalizer"] = inner;
  };
  EXPECT_NE(ErrorAfter(nest).find("nested too deeply"), std::string::npos);
}

TEST(HostileTokenizer, BadUtf8IsRefusedWithItsOffset) {
  const Tokenizer tokenizer(TinySpec(), {}, "t");
  EXPECT_EQ(ErrorOf([&] { tokenizer.Encode("ab\xC3("); }), "the text is not UTF-8 at byte 2 of 4");
  EXPECT_TRUE(tokenizer.Encode("").empty());
}

double SecondsToEncode(const Tokenizer& tokenizer, const std::string& text) {
  const auto start = std::chrono::steady_clock::now();
  const std::vector<int32_t> ids = tokenizer.Encode(text, {.add_special = false});
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
  EXPECT_EQ(tokenizer.Decode(ids), text);
  return taken.count();
}

// Five megabytes that no pre-tokenizer can cut. A quadratic algorithm would take hours; the bound
// leaves room for a busy machine and for sanitizers.
TEST(HostileTokenizer, FiveMegabytesWithoutABreak) {
  FIREQ_NEEDS_DATA("tokenizers/smollm2");
  constexpr size_t kSize = 5'000'000;
  constexpr size_t kSmaller = 500'000;
  std::string mixed;
  for (size_t i = 0; mixed.size() < kSize; ++i) mixed += static_cast<char>('a' + i * i % 23);
  const std::string texts[] = {std::string(kSize, 'a'),     mixed,
                               std::string(kSmaller, ' '),  std::string(kSmaller, '7'),
                               std::string(kSmaller, '\n'), std::string(kSmaller, '<')};
  for (const char* name : {"smollm2", "llama2-hf"}) {
    const Tokenizer tokenizer = LoadDataTokenizer(name);
    for (const std::string& text : texts) {
      EXPECT_LT(SecondsToEncode(tokenizer, text), 30.0) << name << " " << text.substr(0, 4);
    }
  }
}

TEST(HostileTokenizer, CatastrophicPatternIsStopped) {
  const Regex regex("(a+)+$", "t");
  RegexMatcher matcher(regex);
  const std::string text = std::string(60, 'a') + "b";
  matcher.Reset(text);
  Span span;
  EXPECT_NE(ErrorOf([&] { matcher.Next(&span); }).find("match limit"), std::string::npos);
}

TEST(HostileTokenizer, LongRunsOfMarksNormaliseInGoodTime) {
  std::string marks = "a";
  for (int i = 0; i < 400'000; ++i) marks += i % 2 == 0 ? "\xCC\x81" : "\xCC\xA3";
  const std::string normal = NormalizeUnicode(marks, NormalForm::kNfc);
  EXPECT_EQ(normal.substr(0, 3), "\xE1\xBA\xA1");  // a with dot below, U+1EA1
}

// As Hugging Face's library has it: by the tables of Unicode 9.
TEST(Normalizing, WhatCombinesOnlySinceUnicode9StaysWhereItIs) {
  const std::string above = "\xCD\xAB";         // U+036B, class 230
  const std::string telugu = "\xE0\xB0\xBC";    // U+0C3C, class 7 since Unicode 14
  const std::string bengali = "\xE0\xA6\xBC";   // U+09BC, class 7 since Unicode 1
  const std::string modifier = "\xEA\x9F\xB2";  // U+A7F2, decomposes since Unicode 14
  EXPECT_EQ(NormalizeUnicode(above + telugu, NormalForm::kNfc), above + telugu);
  EXPECT_EQ(NormalizeUnicode(above + bengali, NormalForm::kNfc), bengali + above);
  EXPECT_EQ(NormalizeUnicode(modifier, NormalForm::kNfkc), modifier);
  // Text on both sides is normalised.
  EXPECT_EQ(NormalizeUnicode("e\xCC\x81" + telugu + "e\xCC\x81", NormalForm::kNfc),
            "\xC3\xA9" + telugu + "\xC3\xA9");
}

Json TinyGguf() {
  return {{"tokenizer.ggml.model", "llama"},
          {"tokenizer.ggml.tokens", {"<unk>", "<s>", "a", "b", "ab"}},
          {"tokenizer.ggml.scores", {0, 0, -1, -2, -3}},
          {"tokenizer.ggml.token_type", {2, 3, 1, 1, 1}},
          {"tokenizer.ggml.bos_token_id", 1}};
}

TEST(HostileTokenizer, GgufErrorsNameTheKey) {
  const auto error = [](const std::function<void(Json&)>& change) {
    Json metadata = TinyGguf();
    change(metadata);
    return ErrorOf([&] { ConvertGgufTokenizer(metadata, "g"); });
  };
  EXPECT_EQ(error([](Json&) {}), "no error");
  EXPECT_EQ(error([](Json& m) { m["tokenizer.ggml.model"] = "t5"; }),
            "g: tokenizer.ggml.model: the tokenizer \"t5\" is not supported");
  EXPECT_EQ(error([](Json& m) {
              m["tokenizer.ggml.scores"] = {1, 2};
            }),
            "g: tokenizer.ggml.scores: 2 entries for 5 tokens");
  EXPECT_EQ(error([](Json& m) { m["tokenizer.ggml.bos_token_id"] = 5; }),
            "g: tokenizer.ggml.bos_token_id: id 5 in a vocabulary of 5");
  EXPECT_EQ(error([](Json& m) { m["tokenizer.ggml.tokens"][2] = "b"; }),
            "g: tokenizer.ggml.tokens[3]: \"b\" is token 2 already");
  EXPECT_EQ(error([](Json& m) { m["tokenizer.ggml.tokens"][2] = "\xFF"; }),
            "g: tokenizer.ggml.tokens[2]: not UTF-8");
  EXPECT_EQ(error([](Json& m) {
              m["tokenizer.ggml.model"] = "gpt2";
              m["tokenizer.ggml.pre"] = "mystery";
            }),
            "g: tokenizer.ggml.pre: the pre-tokenizer \"mystery\" is not supported");
}

}  // namespace
}  // namespace fireq::text
