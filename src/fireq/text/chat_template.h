// Messages -> prompt text, by the chat template that comes with a model.
//
// Templates are Jinja, rendered as the transformers library renders them. They come from files of
// strangers: work, output and nesting are bounded, and they cannot reach anything outside.
#pragma once

#include <ctime>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace fireq::text {

struct RenderOptions {
  // Ends the prompt with the beginning of an answer.
  bool add_generation_prompt = true;
  // Further variables: tools, documents, date_string, enable_thinking, ... An object.
  nlohmann::ordered_json extra = nlohmann::ordered_json::object();
  // What strftime_now shows; the current time if absent.
  std::optional<std::time_t> now;
};

class ChatTemplate {
 public:
  // `source`: the template. `config`: a tokenizer_config.json or null, whose special tokens
  // (bos_token, eos_token, ...) the template can use. Errors: kCorrupt and kUnsupported with the
  // line for what is not a template FireQ can run.
  ChatTemplate(std::string_view source, const nlohmann::json& config);
  // With another source for messages that come with tools.
  ChatTemplate(std::string_view source, std::string_view source_with_tools,
               const nlohmann::json& config);
  ~ChatTemplate();
  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;

  // The template of a Hugging Face directory: chat_template.jinja, or "chat_template" of
  // tokenizer_config.json or of chat_template.json; nullopt where there is none. Of several by
  // name, "default"; with tools "tool_use" where there is one (beside chat_template.jinja in
  // additional_chat_templates/tool_use.jinja, in a FireQ checkpoint tool_use.jinja).
  static std::optional<ChatTemplate> Load(const std::filesystem::path& directory);
  // The same from a parsed tokenizer_config.json alone.
  static std::optional<ChatTemplate> FromConfig(const nlohmann::json& config);

  // `messages`: an array of objects with "role" and "content" and whatever else the template
  // reads. Keys keep their order, which shows where a template prints JSON (parse requests as
  // nlohmann::ordered_json). The result begins with the beginning-of-text token where the template
  // says so: encode it with add_special = false. Thread-safe.
  //
  // Errors: kInvalidArgument for messages the template refuses, with its own words, or that lack
  // what it reads; kUnsupported for exceeded limits. All with the line of the template.
  std::string Render(const nlohmann::ordered_json& messages,
                     const RenderOptions& options = {}) const;

 private:
  struct Parsed;
  static std::unique_ptr<Parsed> Parse(std::string_view source, const nlohmann::json& config);

  std::unique_ptr<Parsed> parsed_;
  std::unique_ptr<Parsed> with_tools_;  // null: parsed_ for all
};

}  // namespace fireq::text
