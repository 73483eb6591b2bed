#include "tests/support/tiny_llama.h"

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numbers>
#include <random>

#include "fireq/checkpoint/model_config_json.h"
#include "fireq/checkpoint/schema.h"
#include "fireq/io/safetensors_writer.h"

namespace fireq::test {
namespace {

using Row = std::vector<double>;

Row MatVec(const std::vector<float>& w, const Row& x) {
  Row y(w.size() / x.size());
  for (size_t n = 0; n < y.size(); ++n)
    for (size_t k = 0; k < x.size(); ++k) y[n] += double{w[n * x.size() + k]} * x[k];
  return y;
}

Row Norm(const Row& x, const std::vector<float>& weight, double eps) {
  double squares = 0;
  for (const double v : x) squares += v * v;
  Row y(x.size());
  for (size_t i = 0; i < x.size(); ++i)
    y[i] = x[i] / std::sqrt(squares / static_cast<double>(x.size()) + eps) * weight[i];
  return y;
}

double InvFreq(const RopeConfig& rope, int64_t i, int64_t head_dim) {
  const double plain = std::pow(rope.theta, -2.0 * static_cast<double>(i) / head_dim);
  if (rope.scaling == RopeScaling::kNone) return plain;
  const double turns = static_cast<double>(rope.original_context) * plain / (2 * std::numbers::pi);
  if (turns < rope.low_freq_factor) return plain / rope.factor;
  if (turns > rope.high_freq_factor) return plain;
  const double blend =
      (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
  return (1 - blend) * plain / rope.factor + blend * plain;
}

class Reference {
 public:
  Reference(const ModelConfig& config, const TinyWeights& weights) : c_(config), w_(weights) {}

  Row Next(int32_t id) {
    const auto& table = w_.at("model.embed_tokens.weight");
    Row x(table.begin() + id * c_.hidden, table.begin() + (id + 1) * c_.hidden);
    keys_.resize(static_cast<size_t>(c_.num_layers));
    values_.resize(keys_.size());
    for (int64_t layer = 0; layer < c_.num_layers; ++layer) Block(layer, x);
    ++position_;
    const Row last = Norm(x, w_.at("model.norm.weight"), c_.rms_eps);
    return MatVec(c_.tied_embeddings ? table : w_.at("lm_head.weight"), last);
  }

 private:
  const std::vector<float>& W(int64_t layer, const std::string& name) const {
    return w_.at("model.layers." + std::to_string(layer) + "." + name);
  }

  Row Project(int64_t layer, const std::string& name, const Row& x, bool bias) const {
    Row y = MatVec(W(layer, name + ".weight"), x);
    if (bias)
      for (size_t i = 0; i < y.size(); ++i) y[i] += W(layer, name + ".bias")[i];
    return y;
  }

  void NormHeads(int64_t layer, const std::string& name, Row& x) const {
    if (!c_.qk_norm) return;
    for (size_t at = 0; at < x.size(); at += static_cast<size_t>(c_.head_dim)) {
      const auto from = x.begin() + static_cast<int64_t>(at);
      const Row head = Norm(Row(from, from + c_.head_dim), W(layer, name), c_.rms_eps);
      std::copy(head.begin(), head.end(), from);
    }
  }

  void Rotate(Row& x) const {
    const int64_t half = c_.head_dim / 2;
    for (size_t at = 0; at < x.size(); at += static_cast<size_t>(c_.head_dim))
      for (int64_t i = 0; i < half; ++i) {
        const double angle = static_cast<double>(position_) * InvFreq(c_.rope, i, c_.head_dim);
        double& a = x[at + static_cast<size_t>(i)];
        double& b = x[at + static_cast<size_t>(i + half)];
        const double rotated = a * std::cos(angle) - b * std::sin(angle);
        b = b * std::cos(angle) + a * std::sin(angle);
        a = rotated;
      }
  }

  void Block(int64_t layer, Row& x) {
    const size_t l = static_cast<size_t>(layer);
    const Row in = Norm(x, W(layer, "input_layernorm.weight"), c_.rms_eps);
    Row q = Project(layer, "self_attn.q_proj", in, c_.qkv_bias);
    Row k = Project(layer, "self_attn.k_proj", in, c_.qkv_bias);
    NormHeads(layer, "self_attn.q_norm.weight", q);
    NormHeads(layer, "self_attn.k_norm.weight", k);
    Rotate(q);
    Rotate(k);
    keys_[l].push_back(k);
    values_[l].push_back(Project(layer, "self_attn.v_proj", in, c_.qkv_bias));

    Row out(q.size());
    for (int64_t head = 0; head < c_.num_heads; ++head) Attend(l, head, q, out);
    Add(x, Project(layer, "self_attn.o_proj", out, c_.o_bias));

    const Row mid = Norm(x, W(layer, "post_attention_layernorm.weight"), c_.rms_eps);
    Row gate = Project(layer, "mlp.gate_proj", mid, c_.mlp_bias);
    const Row up = Project(layer, "mlp.up_proj", mid, c_.mlp_bias);
    for (size_t i = 0; i < gate.size(); ++i) gate[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
    Add(x, Project(layer, "mlp.down_proj", gate, c_.mlp_bias));
  }

  void Attend(size_t layer, int64_t head, const Row& q, Row& out) const {
    const int64_t dh = c_.head_dim;
    const size_t q_at = static_cast<size_t>(head * dh);
    const size_t kv_at = static_cast<size_t>(head / (c_.num_heads / c_.num_kv_heads) * dh);
    const size_t d = static_cast<size_t>(dh);
    std::vector<double> p;
    double sum = 0;
    for (const Row& k : keys_[layer]) {
      double dot = 0;
      for (size_t i = 0; i < d; ++i) dot += q[q_at + i] * k[kv_at + i];
      p.push_back(std::exp(dot / std::sqrt(static_cast<double>(dh))));
      sum += p.back();
    }
    for (size_t t = 0; t < p.size(); ++t)
      for (size_t i = 0; i < d; ++i) out[q_at + i] += p[t] / sum * values_[layer][t][kv_at + i];
  }

  static void Add(Row& x, const Row& y) {
    for (size_t i = 0; i < x.size(); ++i) x[i] += y[i];
  }

  const ModelConfig& c_;
  const TinyWeights& w_;
  int64_t position_ = 0;
  std::vector<std::vector<Row>> keys_, values_;  // [layer][token]
};

}  // namespace

ModelConfig TinyConfig() {
  ModelConfig c;
  c.family = "llama";
  c.architecture = "LlamaForCausalLM";
  c.num_layers = 2;
  c.hidden = 96;
  c.ffn = 160;
  c.num_heads = 6;
  c.num_kv_heads = 2;
  c.head_dim = 16;
  c.vocab_size = 67;
  c.max_context = 512;
  c.bos_id = 1;
  c.eos_ids = {2};
  return c;
}

TinyWeights RandomWeights(const ModelConfig& config, uint64_t seed) {
  std::mt19937_64 rng(seed);
  std::normal_distribution<float> normal;
  TinyWeights out;
  for (const NamedShape& tensor : FloatTensors(config)) {
    std::vector<float> values(static_cast<size_t>(NumElements(tensor.shape)));
    const bool matrix = tensor.shape.size() == 2;
    const bool norm = tensor.name.find("norm") != std::string::npos;
    // Matrices keep the scale of what goes through them; norm weights lie around one.
    const float spread = matrix ? 1.0f / std::sqrt(static_cast<float>(tensor.shape[1])) : 0.2f;
    for (float& v : values) v = (norm ? 1.0f : 0.0f) + spread * normal(rng);
    out[tensor.name] = std::move(values);
  }
  return out;
}

void WriteHuggingFace(const std::filesystem::path& directory, const ModelConfig& config,
                      const TinyWeights& weights) {
  std::filesystem::create_directories(directory);
  std::ofstream(directory / "config.json") << ToHuggingFaceJson(config).dump(1);
  std::vector<TensorSpec> specs;
  for (const NamedShape& tensor : FloatTensors(config))
    specs.push_back({tensor.name, DType::kF32, tensor.shape});
  SafetensorsWriter writer(directory, specs);
  for (const TensorSpec& spec : specs)
    writer.Write(spec.name, Tensor::FromVector(DType::kF32, spec.shape, weights.at(spec.name)));
  writer.Finish();
}

std::vector<std::vector<double>> ReferenceLogits(const ModelConfig& config,
                                                 const TinyWeights& weights,
                                                 const std::vector<int32_t>& ids) {
  Reference reference(config, weights);
  std::vector<std::vector<double>> out;
  for (const int32_t id : ids) out.push_back(reference.Next(id));
  return out;
}

}  // namespace fireq::test
