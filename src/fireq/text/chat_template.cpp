#include "fireq/text/chat_template.h"

#include <map>

#include "fireq/base/error.h"
#include "fireq/io/json.h"
#include "fireq/io/text_file.h"
#include "fireq/text/jinja/interpreter.h"
#include "fireq/text/jinja/parser.h"
#include "fireq/text/utf8.h"

namespace fireq::text {
namespace {

using jinja::Value;

constexpr size_t kMaxSourceBytes = size_t{1} << 20;
constexpr int kMaxMessageDepth = jinja::kMaxValueDepth - 2;

// Recursion over JSON made by others ends before the stack does.
int DepthOf(const nlohmann::ordered_json& json, int limit) {
  if (!json.is_structured() || limit == 0) return 1;
  int depth = 0;
  for (const auto& item : json) depth = std::max(depth, DepthOf(item, limit - 1));
  return depth + 1;
}

// The tokens that transformers hands to templates: every "..._token" of the configuration.
jinja::Items SpecialTokens(const nlohmann::json& config) {
  jinja::Items tokens;
  if (!config.is_object()) return tokens;
  for (const auto& [key, value] : config.items()) {
    if (!key.ends_with("_token")) continue;
    const nlohmann::json* text = &value;
    if (value.is_object() && value.contains("content")) text = &value["content"];
    if (text->is_string()) {
      tokens.emplace_back(Value::String(key), Value::String(text->get<std::string>()));
    }
  }
  return tokens;
}

}  // namespace

struct ChatTemplate::Parsed {
  jinja::Body body;
  jinja::Items tokens;
};

ChatTemplate::ChatTemplate(std::string_view source, const nlohmann::json& config)
    : parsed_(Parse(source, config)) {}

ChatTemplate::ChatTemplate(std::string_view source, std::string_view source_with_tools,
                           const nlohmann::json& config)
    : parsed_(Parse(source, config)), with_tools_(Parse(source_with_tools, config)) {}

std::unique_ptr<ChatTemplate::Parsed> ChatTemplate::Parse(std::string_view source,
                                                          const nlohmann::json& config) {
  FIREQ_CHECK(source.size() <= kMaxSourceBytes, kUnsupported, "a chat template of ", source.size(),
              " bytes; at most ", kMaxSourceBytes, " are supported");
  const size_t invalid = FindInvalidUtf8(source);
  FIREQ_CHECK(invalid == kNoOffset, kCorrupt, "the chat template is not UTF-8 at byte ", invalid);
  return std::make_unique<Parsed>(
      Parsed{.body = jinja::ParseTemplate(source), .tokens = SpecialTokens(config)});
}

ChatTemplate::~ChatTemplate() = default;
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;

std::optional<ChatTemplate> ChatTemplate::FromConfig(const nlohmann::json& config) {
  if (!config.is_object() || !config.contains("chat_template")) return std::nullopt;
  const nlohmann::json& source = config["chat_template"];
  if (source.is_string()) return ChatTemplate(source.get<std::string>(), config);
  if (!source.is_array()) return std::nullopt;
  std::map<std::string, std::string> named;
  for (size_t i = 0; i < source.size(); ++i) {
    const JsonObject entry(source[i], StrCat("tokenizer_config.json: chat_template[", i, "]"));
    named.emplace(entry.String("name"), entry.String("template"));
  }
  if (!named.contains("default")) return std::nullopt;
  if (!named.contains("tool_use")) return ChatTemplate(named["default"], config);
  return ChatTemplate(named["default"], named["tool_use"], config);
}

std::optional<ChatTemplate> ChatTemplate::Load(const std::filesystem::path& directory) {
  const auto read_json = [&](const char* name) {
    const auto path = directory / name;
    return std::filesystem::exists(path) ? ReadJsonFile(path) : nlohmann::json();
  };
  nlohmann::json config = read_json("tokenizer_config.json");
  const auto path = directory / "chat_template.jinja";
  if (!std::filesystem::exists(path)) {
    const nlohmann::json alone = read_json("chat_template.json");
    const bool has_own = config.is_object() && config.contains("chat_template");
    if (!has_own && alone.is_object() && alone.contains("chat_template")) {
      if (!config.is_object()) config = nlohmann::json::object();
      config["chat_template"] = alone["chat_template"];
    }
    return FromConfig(config);
  }
  const std::string source = ReadTextFile(path, kMaxSourceBytes);
  for (const char* name : {"additional_chat_templates/tool_use.jinja", "tool_use.jinja"}) {
    if (!std::filesystem::exists(directory / name)) continue;
    return ChatTemplate(source, ReadTextFile(directory / name, kMaxSourceBytes), config);
  }
  return ChatTemplate(source, config);
}

std::string ChatTemplate::Render(const nlohmann::ordered_json& messages,
                                 const RenderOptions& options) const {
  FIREQ_CHECK(messages.is_array(), kInvalidArgument, "messages: expected an array");
  FIREQ_CHECK(options.extra.is_object(), kInvalidArgument, "extra: expected an object");
  for (const auto* json : {&messages, &options.extra}) {
    FIREQ_CHECK(DepthOf(*json, kMaxMessageDepth) <= kMaxMessageDepth, kUnsupported,
                "messages nested ", kMaxMessageDepth, " deep or more");
  }
  const auto tools = options.extra.find("tools");
  const bool has_tools = tools != options.extra.end() && !tools->is_null();
  const Parsed& parsed = has_tools && with_tools_ ? *with_tools_ : *parsed_;
  jinja::Items variables = parsed.tokens;
  variables.emplace_back(Value::String("messages"), Value::FromJson(messages));
  variables.emplace_back(Value::String("add_generation_prompt"),
                         Value::Bool(options.add_generation_prompt));
  // Templates ask "tools is none" as transformers always passes them.
  for (const char* name : {"tools", "documents"}) {
    variables.emplace_back(Value::String(name), Value::None());
  }
  for (const auto& [name, value] : options.extra.items()) {
    variables.emplace_back(Value::String(name), Value::FromJson(value));
  }
  return jinja::Render(parsed.body, variables, options.now.value_or(std::time(nullptr)));
}

}  // namespace fireq::text
