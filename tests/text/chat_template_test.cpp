#include "fireq/text/chat_template.h"

#include <filesystem>
#include <fstream>

#include "fireq/base/error.h"
#include "fireq/text/gguf_tokenizer.h"
#include "tests/support/comma_locale.h"
#include "tests/text/text_testing.h"

namespace fireq::text {
namespace {

using Json = nlohmann::ordered_json;

std::string Render(const std::string& source, const Json& extra = Json::object()) {
  return ChatTemplate(source, {}).Render(Json::array(), {.extra = extra, .now = 0});
}

std::string ErrorOf(const std::string& source, const Json& extra = Json::object()) {
  try {
    return "no error: " + Render(source, extra).substr(0, 100);
  } catch (const Error& error) {
    return error.what();
  }
}

TEST(ChatTemplate, GoldenTemplatesRenderExactly) {
  FIREQ_NEEDS_DATA("golden/chat_templates.json");
  const Json cases = Json::parse(ReadData("golden/chat_templates.json"));
  ASSERT_GT(cases.size(), 20u);
  for (const Json& one : cases) {
    const auto name = one["tokenizer"].get<std::string>();
    const std::string jinja = "tokenizers/" + name + "/chat_template.jinja.gz";
    const bool own_file = std::filesystem::exists(DataFolder() / jinja);
    const nlohmann::json config = ReadConfig(name);
    const ChatTemplate chat =
        own_file ? ChatTemplate(ReadData(jinja), config) : *ChatTemplate::FromConfig(config);
    RenderOptions options;
    options.add_generation_prompt = one["add_generation_prompt"].get<bool>();
    EXPECT_EQ(chat.Render(one["messages"], options), one["rendered"].get<std::string>())
        << name << " " << one["case"];
  }
}

TEST(ChatTemplate, QwenToolsPrintJsonInOrder) {
  FIREQ_NEEDS_DATA("tokenizers/qwen2.5");
  const ChatTemplate chat = *ChatTemplate::FromConfig(ReadConfig("qwen2.5"));
  const Json tools =
      Json::parse(R"([{"type": "function", "function": {"name": "f", "a": [1.5]}}])");
  const Json messages = Json::parse(R"([{"role": "user", "content": "x"}])");
  const std::string text = chat.Render(messages, {.extra = {{"tools", tools}}});
  EXPECT_NE(text.find(R"({"type": "function", "function": {"name": "f", "a": [1.5]}})"),
            std::string::npos);
}

TEST(ChatTemplate, LimitsHostileTemplates) {
  EXPECT_NE(ErrorOf("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}").find("deep"),
            std::string::npos);
  EXPECT_NE(ErrorOf("{% for i in range(100000) %}{{ 'x' * 1000 }}{% endfor %}").find("output"),
            std::string::npos);
  EXPECT_NE(ErrorOf("{{ 'x' * 1000000000000 }}").find("repeating"), std::string::npos);
  EXPECT_NE(ErrorOf("{% for i in range(100000) %}{% for j in range(100000) %}"
                    "{% endfor %}{% endfor %}")
                .find("work"),
            std::string::npos);
  EXPECT_NE(ErrorOf("{% set ns = namespace(x=[1]) %}{% for i in range(99) %}"
                    "{% set ns.x = [ns.x, ns.x] %}{% endfor %}")
                .find("weight"),
            std::string::npos);
  EXPECT_NE(
      ErrorOf("{{ " + std::string(5000, '(') + "1" + std::string(5000, ')') + " }}").find("nested"),
      std::string::npos);
  std::string sum = "{{ 1";
  for (int i = 0; i < 5000; ++i) sum += " + 1";
  EXPECT_NE(ErrorOf(sum + " }}").find("nested"), std::string::npos);
}

TEST(ChatTemplate, ErrorsNameTheLineAndTheThing) {
  EXPECT_EQ(ErrorOf("a\n{{ x.y.z }}"),
            "chat template, line 2: 'x' is undefined, so it has no attribute 'y'");
  EXPECT_EQ(ErrorOf("\n\n{% include 'x' %}"),
            "chat template, line 3: the statement 'include' is not supported");
  EXPECT_EQ(ErrorOf("{{ 1 | frobnicate }}"),
            "chat template, line 1: the filter 'frobnicate' is not supported");
  EXPECT_EQ(ErrorOf("{{ raise_exception('no tools') }}"),
            "chat template, line 1: the template refuses: no tools");
  EXPECT_EQ(ErrorOf("{% if x %}"), "chat template, line 1: this block has no endif");
  EXPECT_EQ(ErrorOf("{{ 'abc }}"), "chat template, line 1: this string is never closed");
  EXPECT_EQ(ErrorOf("{{ [1].append(2) }}"),
            "chat template, line 1: 'append' of a value of type list is undefined, so it cannot "
            "be called");
}

// Each seen beside jinja2 3.1.
TEST(ChatTemplate, FiltersAndLoopsAsJinjaHasThem) {
  EXPECT_EQ(Render("{{ \"don't STOP-here (now) [it] <b> {c}\" | title }}"),
            "Don't Stop-Here (Now) [It] <B> {C}");
  EXPECT_EQ(Render("{{ \"don't\".title() }}"), "Don'T");
  EXPECT_EQ(Render("{{ 3 | round }} {{ 2.5 | round }} {{ 2.675 | round(2) }} {{ true | round }}"),
            "3 2.0 2.67 1");
  EXPECT_EQ(Render("{{ 3 | round(1, 'ceil') }} {{ 1234 | round(-2) }} {{ 0.125 | round(2) }}"),
            "3.0 1200 0.12");
  EXPECT_EQ(Render("{{ [] | wordcount }} {{ \"it's a_b, \u00E9-1\" | wordcount }}"), "0 5");
  // A body that ends early has not run as far as the else is concerned.
  EXPECT_EQ(Render("{% for i in [1] %}{% continue %}{% else %}none{% endfor %}"), "none");
  EXPECT_EQ(Render("{% for i in [1, 2] %}{{ i }}{% break %}{% else %}none{% endfor %}"), "1none");
  EXPECT_EQ(Render("{% for i in [1, 2] %}{% if i == 2 %}{% break %}{% endif %}{% else %}none"
                   "{% endfor %}"),
            "");
}

// As transformers defines it; each seen beside json.dumps.
TEST(ChatTemplate, TojsonTakesWhatJsonDumpsTakes) {
  const std::string value = "{{ {'k': ['\u00e9\U0001F600\x7F', 1]} | tojson";
  EXPECT_EQ(Render(value + " }}"), "{\"k\": [\"\u00e9\U0001F600\x7F\", 1]}");
  EXPECT_EQ(Render(value + "(ensure_ascii=true) }}"), R"({"k": ["\u00e9\ud83d\ude00\u007f", 1]})");
  EXPECT_EQ(Render(value + "(true) }}"), R"({"k": ["\u00e9\ud83d\ude00\u007f", 1]})");
  EXPECT_EQ(Render("{{ {'b': [1, 2], 'a': {}} | tojson(separators=(',', ':'), sort_keys=true) }}"),
            R"({"a":{},"b":[1,2]})");
  EXPECT_EQ(Render("{{ {'b': [1]} | tojson(indent=1, separators=['; ', '=']) }}"),
            "{\n \"b\"=[\n  1\n ]\n}");
  EXPECT_EQ(Render("{{ [1, 2] | tojson(indent=0) }}"), "[\n1,\n2\n]");
  EXPECT_EQ(ErrorOf("{{ [1] | tojson(separators=', ') }}"),
            "chat template, line 1: tojson: separators are two texts, got str");
}

TEST(ChatTemplate, FormatsNumbersAndTextsAsPython) {
  EXPECT_EQ(Render("{{ '%5s|%-5s|%05d|%+d|% d|%3d' | format('a', 'b', 42, 3, 4, 7) }}"),
            "    a|b    |00042|+3| 4|  7");
  EXPECT_EQ(Render("{{ '%.3s %e %g %c %5.1f %-6.2f|' % ('\u00e9bcdef', 12345.678, 0.0001, 'x', "
                   "2.25, -1.005) }}"),
            "\u00e9bc 1.234568e+04 0.0001 x   2.2 -1.00 |");
  EXPECT_EQ(Render("{{ '%#x %X %o %#o %.3d %06.1f %d' % (255, 255, 8, 8, 5, -2.55, 3.9) }}"),
            "0xff FF 10 0o10 005 -002.5 3");
  EXPECT_EQ(Render("{{ '%#.0f|%#.0e|%#g|%#.3g|%#.3G|%g|%E|%F|%#.2g' % (5.0, 5.0, 0.0, 12345.0, "
                   "0.00001234, 1e-7, 1.5, 1e308 * 10, 99.6) }}"),
            "5.|5.e+00|0.00000|1.23e+04|1.23E-05|1e-07|1.500000E+00|INF|1.0e+02");
  EXPECT_EQ(Render("{{ '%#g|%#.1g|%.0g|%.40f|%#5.0f|' % (100000.0, 9.9, 12.5, 0.1, 2.5) }}"),
            "100000.|1.e+01|1e+01|0.1000000000000000055511151231257827021182|   2.|");
  EXPECT_EQ(Render("{{ '%(a)s-%(b)03d%%' | format(a='x', b=7) }}{{ '%(k)s' % {'k': 1} }}"),
            "x-007%1");
  EXPECT_EQ(ErrorOf("{{ '%*d' % (1, 2) }}"),
            "chat template, line 1: the conversion %* is not supported");
  EXPECT_EQ(ErrorOf("{{ '%99999999d' % 2 }}"),
            "chat template, line 1: a format's width of 99999999; at most 10000");
}

TEST(ChatTemplate, WritesPointsInAnyLocale) {
  const test::CommaLocale locale;
  if (!locale.is_set()) GTEST_SKIP() << "skipped: no locale with a decimal comma here";
  EXPECT_EQ(
      Render("{{ '%.3f %#.2g %e' % (0.5, 1, 1.5) }} {{ 2.5 | round(1) }} {{ [0.25] | tojson }} "
             "{{ '1.5' | float }} {{ 1.5 }}"),
      "0.500 1.0 1.500000e+00 2.5 [0.25] 1.5 1.5");
}

// Each seen beside jinja2 3.1.
TEST(ChatTemplate, WhatFewTemplatesUse) {
  EXPECT_EQ(Render("{% for g in [{'r': 'a'}, {'r': 'b'}, {'r': 'a'}] | groupby('r') %}"
                   "{{ g.grouper }}{{ g.list | length }}{{ g[1] | length }} {% endfor %}"),
            "a22 b11 ");
  EXPECT_EQ(Render("{% for g, l in [{'r': 'B'}, {}, {'r': 'b'}] | groupby('r', default='a') %}"
                   "{{ g }}{{ l | length }}{% endfor %}"),
            "a1B2");
  EXPECT_EQ(Render("{{ [{'a': {}}, {}] | map(attribute='a.b', default={'b': 1}) | list }}"),
            "[{'b': 1}, 1]");
  // Only groupby's pairs have names.
  EXPECT_EQ(Render("{{ (1, 2).grouper is defined }} {{ (1, 2)['list'] is defined }} "
                   "{{ ({'a': 1} | items | first).list is defined }} "
                   "{{ ([{'r': 1}] | groupby('r'))[0] }}"),
            "False False False (1, [{'r': 1}])");
  EXPECT_EQ(Render("{% macro m(a, b='x') %}{{ a }}{{ b }}{{ varargs }}{{ kwargs }}{% endmacro %}"
                   "{{ m(1, 2, 3, z=5) }} {{ m(1) }}"),
            "12(3,){'z': 5} 1x(){}");
  EXPECT_EQ(ErrorOf("{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}"),
            "chat template, line 1: macro 'm' takes at most 1 arguments, got 2");
  EXPECT_EQ(Render("{{ [{'role': 'u'}] | map('attr', 'role') | list }}"), "[Undefined]");
  EXPECT_EQ(Render("{{ 0x1F + 0b11 + 0o17 + 1_0 }} {{ -0.0 }} {{ '\\101\\0' | length }}"),
            "59 -0.0 2");
  EXPECT_EQ(Render("{{ '0x1f' | int(base=16) }} {{ '1_000' | int }} {{ '+5' | int }} "
                   "{{ '1__0' | int(7) }} {{ '-0b11' | int(base=2) }} {{ '--1' | int }}"),
            "31 1000 5 7 -3 0");
  EXPECT_EQ(Render("{{ 'a\\r\\nb\\vc\\x85d\\u2028\\n' | indent(1) }}|"), "a\n b\n c\n d\n\n|");
  EXPECT_EQ(Render("{{ 'a\\r\\nb\\vc\\x85d\\u2028' .splitlines() | length }}"), "4");
  EXPECT_EQ(ErrorOf("{{ 1e20 | int }}"), "chat template, line 1: int: 1e+20 exceeds 64 bits");
  EXPECT_EQ(Render("{{ ['\u200b\u00a0\u3000\U000E0001\u00e9'] }}"),
            R"(['\u200b\xa0\u3000\U000e0001)"
            "\u00e9']");
}

TEST(ChatTemplate, TheLowestStepOfASlice) {
  EXPECT_EQ(Render("{{ 'abc'[::-9223372036854775807 - 1] }}"), "c");
}

TEST(ChatTemplate, TheOneNamedToolUseServesTools) {
  const nlohmann::json config = {
      {"chat_template",
       {{{"name", "tool_use"}, {"template", "{{ tools | length }} tools"}},
        {{"name", "default"}, {"template", "none"}},
        {{"name", "rag"}, {"template", "{% never parsed %}"}}}}};
  const auto chat_template = ChatTemplate::FromConfig(config);
  ASSERT_TRUE(chat_template.has_value());
  const auto render = [&](nlohmann::ordered_json extra) {
    return chat_template->Render(nlohmann::ordered_json::array(), {.extra = std::move(extra)});
  };
  EXPECT_EQ(render(nlohmann::ordered_json::object()), "none");
  EXPECT_EQ(render({{"tools", nullptr}}), "none");
  EXPECT_EQ(render({{"tools", {1, 2}}}), "2 tools");
}

TEST(ChatTemplate, OfAGgufFile) {
  nlohmann::json metadata = {{"tokenizer.ggml.model", "gpt2"},
                             {"tokenizer.ggml.pre", "gpt-2"},
                             {"tokenizer.ggml.tokens", {"a"}},
                             {"tokenizer.ggml.merges", nlohmann::json::array()},
                             {"tokenizer.chat_template", "plain"}};
  const auto render = [&](nlohmann::ordered_json extra) {
    const auto chat = ChatTemplate::FromConfig(ConvertGgufTokenizer(metadata, "g").config);
    return chat->Render(nlohmann::ordered_json::array(), {.extra = std::move(extra)});
  };
  EXPECT_EQ(render({{"tools", {1}}}), "plain");
  metadata["tokenizer.chat_template.tool_use"] = "tools";
  EXPECT_EQ(render({{"tools", {1}}}), "tools");
  EXPECT_EQ(render(nlohmann::ordered_json::object()), "plain");
}

TEST(ChatTemplate, EveryPlaceWhereADirectoryKeepsTemplates) {
  const auto directory = std::filesystem::path(testing::TempDir()) / "fireq_chat_template_places";
  std::filesystem::remove_all(directory);
  std::filesystem::create_directories(directory / "additional_chat_templates");
  const auto write = [&](const std::string& name, const std::string& text) {
    std::ofstream(directory / name) << text;
  };
  const auto render = [&](nlohmann::ordered_json extra) {
    return ChatTemplate::Load(directory)->Render(nlohmann::ordered_json::array(),
                                                 {.extra = std::move(extra)});
  };
  EXPECT_FALSE(ChatTemplate::Load(directory).has_value());
  write("chat_template.json", R"({"chat_template": "json"})");
  EXPECT_EQ(render(nlohmann::ordered_json::object()), "json");
  write("tokenizer_config.json",
        R"({"bos_token": "<s>", "chat_template": "config {{ bos_token }}"})");
  EXPECT_EQ(render(nlohmann::ordered_json::object()), "config <s>");
  write("chat_template.jinja", "jinja {{ bos_token }}");
  EXPECT_EQ(render({{"tools", {1}}}), "jinja <s>");
  write("tool_use.jinja", "in a checkpoint");
  EXPECT_EQ(render({{"tools", {1}}}), "in a checkpoint");
  write("additional_chat_templates/tool_use.jinja", "tools {{ bos_token }}");
  EXPECT_EQ(render({{"tools", {1}}}), "tools <s>");
  EXPECT_EQ(render(nlohmann::ordered_json::object()), "jinja <s>");
  std::filesystem::remove_all(directory);
}

TEST(ChatTemplate, MethodsOfPythonThatAreMissingAreUnsupported) {
  const auto code_of = [](const std::string& source) {
    try {
      Render(source);
    } catch (const Error& error) {
      return error.code();
    }
    return ErrorCode::kInternal;
  };
  EXPECT_EQ(ErrorOf("\n{{ 'x{}'.format(1) }}"),
            "chat template, line 2: the method 'format' of str is not supported");
  EXPECT_EQ(code_of("{{ 'x{}'.format(1) }}"), ErrorCode::kUnsupported);
  EXPECT_EQ(code_of("{{ 'x'['zfill'](3) }}"), ErrorCode::kUnsupported);
  EXPECT_EQ(code_of("{{ (5).bit_length() }}"), ErrorCode::kUnsupported);
  EXPECT_EQ(code_of("{{ 'x'.nonsense() }}"), ErrorCode::kInvalidArgument);
  // Keys of a dictionary are no methods, and what Python does not have stays undefined.
  EXPECT_EQ(Render("{{ {'format': 1}.format }}{{ 'x'.nonsense is defined }}"), "1False");
}

}  // namespace
}  // namespace fireq::text
