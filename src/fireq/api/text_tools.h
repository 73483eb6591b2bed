// The tokenizer and chat template of a model, wherever they are stored.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "fireq/text/chat_template.h"
#include "fireq/text/tokenizer.h"

namespace fireq {

struct TextTools {
  text::Tokenizer tokenizer;
  std::optional<text::ChatTemplate> chat_template;
};

// `path` is a .gguf file or a directory with tokenizer.json (and, where the model has one, a chat
// template in chat_template.jinja or tokenizer_config.json). Throws kNotFound naming what is
// missing.
TextTools LoadTextTools(const std::filesystem::path& path);

}  // namespace fireq
