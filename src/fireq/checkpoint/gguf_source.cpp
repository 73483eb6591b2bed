#include "fireq/checkpoint/gguf_source.h"

#include <cstring>
#include <map>
#include <set>
#include <string_view>
#include <utility>

#include "fireq/base/error.h"
#include "fireq/checkpoint/families.h"
#include "fireq/checkpoint/schema.h"
#include "fireq/io/ggml_types.h"
#include "fireq/io/json.h"

namespace fireq {
namespace {

// Hugging Face's name of a module within a layer, and GGUF's within "blk.N.".
constexpr std::pair<std::string_view, std::string_view> kLayerModules[] = {
    {"input_layernorm", "attn_norm"},    {"post_attention_layernorm", "ffn_norm"},
    {"self_attn.q_proj", "attn_q"},      {"self_attn.k_proj", "attn_k"},
    {"self_attn.v_proj", "attn_v"},      {"self_attn.o_proj", "attn_output"},
    {"self_attn.q_norm", "attn_q_norm"}, {"self_attn.k_norm", "attn_k_norm"},
    {"mlp.gate_proj", "ffn_gate"},       {"mlp.up_proj", "ffn_up"},
    {"mlp.down_proj", "ffn_down"},
};

std::string GgufName(const std::string& name) {
  if (name == kEmbeddingName) return "token_embd.weight";
  if (name == kFinalNormName) return "output_norm.weight";
  if (name == kLmHeadName) return "output.weight";
  // "model.layers." N "." module ".weight" or ".bias"
  constexpr std::string_view kPrefix = "model.layers.";
  const size_t layer_end = name.find('.', kPrefix.size());
  const size_t kind = name.rfind('.');
  const std::string_view module =
      std::string_view(name).substr(layer_end + 1, kind - layer_end - 1);
  for (const auto& [ours, theirs] : kLayerModules) {
    if (module == ours) {
      return StrCat("blk.", name.substr(kPrefix.size(), layer_end - kPrefix.size()), ".", theirs,
                    name.substr(kind));
    }
  }
  Throw(ErrorCode::kInternal, "no GGUF name for " + name);
}

// Row (h, 2i + j) of `permuted` becomes row (h, j * Dh/2 + i): interleaved pairs to halves.
Tensor UndoInterleaving(const Tensor& permuted, int64_t num_heads) {
  Tensor out = Tensor::Empty(permuted.dtype(), permuted.shape());
  const int64_t rows = permuted.dim(0);
  const int64_t row_bytes = permuted.size_bytes() / rows;
  const int64_t half = rows / num_heads / 2;
  const char* from = static_cast<const char*>(permuted.data());
  char* to = static_cast<char*>(out.data());
  for (int64_t h = 0; h < num_heads; ++h) {
    for (int64_t i = 0; i < half; ++i) {
      for (int64_t j = 0; j < 2; ++j) {
        std::memcpy(to + (h * 2 * half + j * half + i) * row_bytes,
                    from + (h * 2 * half + 2 * i + j) * row_bytes, static_cast<size_t>(row_bytes));
      }
    }
  }
  return out;
}

class GgufSource final : public ModelSource {
 public:
  explicit GgufSource(std::shared_ptr<const GgufFile> file)
      : ModelSource(file->path(), GgufModelConfig(*file)), file_(std::move(file)) {
    permutes_qk_ = FamilyOfGguf(file_->metadata().at("general.architecture").get<std::string>(), "")
                       .gguf_permutes_qk;
    for (const NamedShape& tensor : FloatTensors(config())) AddTensor(tensor);
    RefuseUnknownTensors();
  }

  bool Has(const std::string& name) const override { return names_.contains(name); }
  Tensor Load(const std::string& name) const override;
  std::shared_ptr<const GgufFile> gguf() const override { return file_; }

 private:
  void AddTensor(const NamedShape& tensor);
  void RefuseUnknownTensors() const;

  std::shared_ptr<const GgufFile> file_;
  std::map<std::string, std::string> names_;  // ours -> GGUF's
  bool permutes_qk_ = false;
};

void GgufSource::AddTensor(const NamedShape& tensor) {
  const std::string name = GgufName(tensor.name);
  const auto entry = file_->entries().find(name);
  FIREQ_CHECK(entry != file_->entries().end(), kNotFound, path().string(), ": tensor ", name,
              " is missing");
  FIREQ_CHECK(entry->second.shape == tensor.shape, kCorrupt, path().string(), ": ", name,
              ": shape ", ToString(entry->second.shape), ", the metadata ask for ",
              ToString(tensor.shape));
  const GgmlType& type = *FindGgmlType(entry->second.type);
  FIREQ_CHECK(type.decode != nullptr, kUnsupported, path().string(), ": ", name,
              ": tensors of type ", type.name,
              " are not supported (supported: ", ReadableGgmlTypes(), ")");
  names_[tensor.name] = name;
}

void GgufSource::RefuseUnknownTensors() const {
  std::set<std::string> known = {"rope_freqs.weight"};  // read by GgufModelConfig
  for (const auto& [ours, theirs] : names_) known.insert(theirs);
  for (const auto& [name, entry] : file_->entries()) {
    FIREQ_CHECK(known.contains(name), kUnsupported, path().string(), ": ", name, ": a ",
                config().architecture, " has no such tensor");
  }
}

Tensor GgufSource::Load(const std::string& name) const {
  const auto found = names_.find(name);
  FIREQ_CHECK(found != names_.end(), kNotFound, path().string(), ": there is no tensor ", name);
  Tensor stored = file_->Get(found->second);
  if (!permutes_qk_) return stored;
  if (name.find(".q_proj.") != name.npos) return UndoInterleaving(stored, config().num_heads);
  if (name.find(".k_proj.") != name.npos) return UndoInterleaving(stored, config().num_kv_heads);
  return stored;
}

}  // namespace

std::shared_ptr<const ModelSource> OpenGgufSource(const std::filesystem::path& path) {
  return std::make_shared<GgufSource>(GgufFile::Open(path));
}

}  // namespace fireq
