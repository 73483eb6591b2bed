#include "fireq/text/chat_template.h"

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
    : parsed_(std::make_unique<Parsed>()) {
  FIREQ_CHECK(source.size() <= kMaxSourceBytes, kUnsupported, "a chat template of ", source.size(),
              " bytes; at most ", kMaxSourceBytes, " are supported");
  const size_t invalid = FindInvalidUtf8(source);
  FIREQ_CHECK(invalid == kNoOffset, kCorrupt, "the chat template is not UTF-8 at byte ", invalid);
  parsed_->body = jinja::ParseTemplate(source);
  parsed_->tokens = SpecialTokens(config);
}

ChatTemplate::~ChatTemplate() = default;
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;

std::optional<ChatTemplate> ChatTemplate::FromConfig(const nlohmann::json& config) {
  if (!config.is_object() || !config.contains("chat_template")) return std::nullopt;
  const nlohmann::json& source = config["chat_template"];
  if (source.is_string()) return ChatTemplate(source.get<std::string>(), config);
  if (!source.is_array()) return std::nullopt;
  for (size_t i = 0; i < source.size(); ++i) {
    const JsonObject entry(source[i], StrCat("tokenizer_config.json: chat_template[", i, "]"));
    if (entry.String("name") == "default") return ChatTemplate(entry.String("template"), config);
  }
  return std::nullopt;
}

std::optional<ChatTemplate> ChatTemplate::Load(const std::filesystem::path& directory) {
  const auto config_path = directory / "tokenizer_config.json";
  const nlohmann::json config =
      std::filesystem::exists(config_path) ? ReadJsonFile(config_path) : nlohmann::json();
  const auto path = directory / "chat_template.jinja";
  if (!std::filesystem::exists(path)) return FromConfig(config);
  return ChatTemplate(ReadTextFile(path, kMaxSourceBytes), config);
}

std::string ChatTemplate::Render(const nlohmann::ordered_json& messages,
                                 const RenderOptions& options) const {
  FIREQ_CHECK(messages.is_array(), kInvalidArgument, "messages: expected an array");
  FIREQ_CHECK(options.extra.is_object(), kInvalidArgument, "extra: expected an object");
  for (const auto* json : {&messages, &options.extra}) {
    FIREQ_CHECK(DepthOf(*json, kMaxMessageDepth) <= kMaxMessageDepth, kUnsupported,
                "messages nested ", kMaxMessageDepth, " deep or more");
  }
  jinja::Items variables = parsed_->tokens;
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
  return jinja::Render(parsed_->body, variables, options.now.value_or(std::time(nullptr)));
}

}  // namespace fireq::text
