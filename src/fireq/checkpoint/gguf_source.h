// ModelSource over a GGUF file.
#pragma once

#include <filesystem>
#include <memory>

#include "fireq/checkpoint/model_source.h"
#include "fireq/io/gguf.h"

namespace fireq {

std::shared_ptr<const ModelSource> OpenGgufSource(const std::filesystem::path& path);

// The configuration that a GGUF file's metadata and tensor directory state. Errors name the file
// and the key: kCorrupt, kUnsupported (architecture, mixture of experts, RoPE scaling that is not
// llama3's, an active sliding window, a split file), kNotFound.
ModelConfig GgufModelConfig(const GgufFile& file);

}  // namespace fireq
