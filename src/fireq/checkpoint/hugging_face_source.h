// ModelSource over a Hugging Face directory.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "fireq/checkpoint/model_source.h"

namespace fireq {

std::shared_ptr<const ModelSource> OpenHuggingFaceSource(const std::filesystem::path& directory);

// The configuration of a Hugging Face directory: config.json, its end tokens replaced by those of
// generation_config.json where that has any. Errors: those of ParseModelConfig, kNotFound.
ModelConfig ReadModelConfig(const std::filesystem::path& directory);

// The files of `directory` that go with a model beside its weights and config.json (tokenizer, chat
// templates, generation settings), as far as they exist.
std::vector<std::filesystem::path> FindAuxiliaryFiles(const std::filesystem::path& directory);

}  // namespace fireq
