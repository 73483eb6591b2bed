#include "fireq/checkpoint/hugging_face_source.h"

#include <set>

#include "fireq/base/error.h"
#include "fireq/checkpoint/model_config_json.h"
#include "fireq/checkpoint/schema.h"
#include "fireq/io/json.h"
#include "fireq/io/safetensors.h"

namespace fireq {
namespace {

namespace fs = std::filesystem;

constexpr const char* kAuxiliaryNames[] = {"tokenizer.json",
                                           "tokenizer_config.json",
                                           "special_tokens_map.json",
                                           "added_tokens.json",
                                           "vocab.json",
                                           "merges.txt",
                                           "tokenizer.model",
                                           "chat_template.jinja",
                                           "chat_template.json",
                                           "additional_chat_templates/tool_use.jinja",
                                           "generation_config.json"};

class HuggingFaceSource final : public ModelSource {
 public:
  explicit HuggingFaceSource(const fs::path& directory)
      : ModelSource(directory, ReadModelConfig(directory)), tensors_(directory) {
    CheckTensors();
  }

  bool Has(const std::string& name) const override { return tensors_.Has(name); }
  Tensor Load(const std::string& name) const override { return tensors_.Get(name); }
  std::vector<fs::path> WeightFiles() const override {
    std::set<fs::path> files;
    for (const std::string& name : tensors_.Names()) files.insert(tensors_.PathOf(name));
    return {files.begin(), files.end()};
  }
  fs::path tokenizer_directory() const override { return path(); }
  std::vector<fs::path> AuxiliaryFiles() const override { return FindAuxiliaryFiles(path()); }

 private:
  void CheckTensors() const;

  SafetensorsDirectory tensors_;
};

// Tensors that old exporters left in checkpoints and that say nothing.
bool MayBeIgnored(const std::string& name, const ModelConfig& config) {
  return name.ends_with(".rotary_emb.inv_freq") || (config.tied_embeddings && name == kLmHeadName);
}

void HuggingFaceSource::CheckTensors() const {
  std::set<std::string> expected;
  std::string missing;
  int64_t num_missing = 0;
  for (const NamedShape& tensor : FloatTensors(config())) {
    expected.insert(tensor.name);
    if (!tensors_.Has(tensor.name)) {
      if (++num_missing <= 5) missing += (missing.empty() ? "" : ", ") + tensor.name;
      continue;
    }
    const SafetensorsEntry& entry = tensors_.Entry(tensor.name);
    const std::string place = StrCat(tensors_.PathOf(tensor.name).string(), ": ", tensor.name);
    FIREQ_CHECK(entry.dtype == "F32" || entry.dtype == "F16" || entry.dtype == "BF16", kUnsupported,
                place, ": dtype ", entry.dtype,
                " is not supported for a float model (F32, F16 and BF16 are)");
    FIREQ_CHECK(entry.shape == tensor.shape, kCorrupt, place, ": shape ", ToString(entry.shape),
                ", config.json asks for ", ToString(tensor.shape));
  }
  FIREQ_CHECK(num_missing == 0, kNotFound, path().string(), ": ", num_missing,
              " tensors are missing: ", missing, num_missing > 5 ? ", ..." : "");
  for (const std::string& name : tensors_.Names()) {
    FIREQ_CHECK(expected.contains(name) || MayBeIgnored(name, config()), kUnsupported,
                tensors_.PathOf(name).string(), ": ", name, ": a ", config().architecture,
                " of this config.json has no such tensor");
  }
}

}  // namespace

ModelConfig ReadModelConfig(const fs::path& directory) {
  const fs::path path = directory / "config.json";
  ModelConfig config = ParseModelConfig(ReadJsonFile(path), path.string());
  const fs::path generation_path = directory / "generation_config.json";
  if (fs::exists(generation_path)) {
    const nlohmann::json json = ReadJsonFile(generation_path);
    const JsonObject generation(json, generation_path.string());
    const std::vector<int64_t> eos = generation.Ints("eos_token_id", 0, config.vocab_size - 1);
    if (!eos.empty()) config.eos_ids = eos;
  }
  return config;
}

std::vector<fs::path> FindAuxiliaryFiles(const fs::path& directory) {
  std::vector<fs::path> found;
  for (const char* name : kAuxiliaryNames) {
    if (fs::is_regular_file(directory / name)) found.push_back(directory / name);
  }
  return found;
}

std::shared_ptr<const ModelSource> OpenHuggingFaceSource(const fs::path& directory) {
  return std::make_shared<HuggingFaceSource>(directory);
}

}  // namespace fireq
