// A transformer block in double, straight from its definition: what folds must leave unchanged.
#pragma once

#include <cmath>
#include <random>
#include <vector>

#include "fireq/checkpoint/model_config.h"
#include "fireq/quant/block.h"

namespace fireq::quant::testing_support {

using Rows = std::vector<std::vector<double>>;

inline ModelConfig SmallConfig(bool biases, bool qk_norm) {
  ModelConfig config;
  config.hidden = 24;
  config.ffn = 40;
  config.num_heads = 6;
  config.num_kv_heads = 2;
  config.head_dim = 8;
  config.num_layers = 1;
  config.qkv_bias = config.o_bias = config.mlp_bias = biases;
  config.qk_norm = qk_norm;
  return config;
}

class Draw {
 public:
  explicit Draw(uint32_t seed) : engine_(seed) {}
  double Normal() { return normal_(engine_); }
  std::vector<double> Vector(int64_t n, double mean = 0.0) {
    std::vector<double> out(static_cast<size_t>(n));
    for (double& x : out) x = mean + 0.4 * Normal();
    return out;
  }
  FloatLinear<double> MakeLinear(int64_t n, int64_t k, bool bias) {
    FloatLinear<double> out;
    out.weight = Matrix<double>(n, k);
    for (double& x : out.weight.data) x = 0.3 * Normal();
    if (bias) out.bias = Vector(n);
    return out;
  }

 private:
  std::mt19937 engine_;
  std::normal_distribution<double> normal_;
};

inline Block<double> RandomBlock(const ModelConfig& c, uint32_t seed) {
  Draw draw(seed);
  Block<double> block;
  block.attn_norm = draw.Vector(c.hidden, 1.0);
  block.mlp_norm = draw.Vector(c.hidden, 1.0);
  if (c.qk_norm) {
    block.q_norm = draw.Vector(c.head_dim, 1.0);
    block.k_norm = draw.Vector(c.head_dim, 1.0);
  }
  block.q = draw.MakeLinear(c.q_rows(), c.hidden, c.qkv_bias);
  block.k = draw.MakeLinear(c.kv_rows(), c.hidden, c.qkv_bias);
  block.v = draw.MakeLinear(c.kv_rows(), c.hidden, c.qkv_bias);
  block.o = draw.MakeLinear(c.hidden, c.q_rows(), c.o_bias);
  block.gate = draw.MakeLinear(c.ffn, c.hidden, c.mlp_bias);
  block.up = draw.MakeLinear(c.ffn, c.hidden, c.mlp_bias);
  block.down = draw.MakeLinear(c.hidden, c.ffn, c.mlp_bias);
  return block;
}

inline std::vector<double> Apply(const FloatLinear<double>& linear, const std::vector<double>& x) {
  std::vector<double> y(static_cast<size_t>(linear.weight.rows));
  for (size_t n = 0; n < y.size(); ++n) {
    y[n] = linear.bias.empty() ? 0.0 : linear.bias[n];
    for (size_t k = 0; k < x.size(); ++k)
      y[n] += linear.weight.at(static_cast<int64_t>(n), static_cast<int64_t>(k)) * x[k];
  }
  return y;
}

inline void RmsNorm(double* x, size_t n, const std::vector<double>& weight) {
  double sum = 0.0;
  for (size_t i = 0; i < n; ++i) sum += x[i] * x[i];
  const double inv = 1.0 / std::sqrt(sum / static_cast<double>(n) + 1e-6);
  for (size_t i = 0; i < n; ++i) x[i] *= inv * weight[i];
}

inline void Rope(double* head, int64_t head_dim, size_t position) {
  for (int64_t f = 0; f < head_dim / 2; ++f) {
    const double angle = static_cast<double>(position) *
                         std::pow(100.0, -2.0 * static_cast<double>(f) / double(head_dim));
    const double a = head[f], b = head[f + head_dim / 2];
    head[f] = a * std::cos(angle) - b * std::sin(angle);
    head[f + head_dim / 2] = b * std::cos(angle) + a * std::sin(angle);
  }
}

// K of one token: what RPN and CRS look at.
struct KeyHeads {
  std::vector<double> before_rope, after_rope;  // [Hk, Dh]
};

class ReferenceBlock {
 public:
  ReferenceBlock(const Block<double>& block, const ModelConfig& config)
      : block_(block), config_(config) {}

  // The residual stream [T, D] through the block; keys are kept in `keys`.
  Rows Run(Rows x) {
    keys.clear();
    queries.clear();
    Rows values;
    for (size_t t = 0; t < x.size(); ++t) {
      std::vector<double> normed = x[t];
      RmsNorm(normed.data(), normed.size(), block_.attn_norm);
      queries.push_back(
          Heads(Apply(block_.q, normed), block_.q_norm, block_.crs_q, {}, t, nullptr));
      KeyHeads key;
      key.after_rope = Heads(Apply(block_.k, normed), block_.k_norm, block_.crs_k, block_.key_shift,
                             t, &key.before_rope);
      keys.push_back(key);
      values.push_back(Apply(block_.v, normed));
    }
    for (size_t t = 0; t < x.size(); ++t) {
      Add(x[t], Apply(block_.o, Attend(values, t)));
      std::vector<double> normed = x[t];
      RmsNorm(normed.data(), normed.size(), block_.mlp_norm);
      const std::vector<double> gate = Apply(block_.gate, normed), up = Apply(block_.up, normed);
      std::vector<double> hidden(gate.size());
      for (size_t i = 0; i < hidden.size(); ++i)
        hidden[i] = gate[i] / (1.0 + std::exp(-gate[i])) * up[i];
      Add(x[t], Apply(block_.down, hidden));
    }
    return x;
  }

  std::vector<KeyHeads> keys;
  Rows queries;  // [T, H Dh] after RoPE

 private:
  std::vector<double> Heads(std::vector<double> x, const std::vector<double>& norm,
                            const std::vector<double>& crs, const std::vector<double>& shift,
                            size_t position, std::vector<double>* before) const {
    const int64_t dh = config_.head_dim;
    const int64_t heads = static_cast<int64_t>(x.size()) / dh;
    if (!norm.empty())
      for (int64_t h = 0; h < heads; ++h) RmsNorm(x.data() + h * dh, static_cast<size_t>(dh), norm);
    if (before) *before = x;
    for (int64_t h = 0; h < heads; ++h) {
      Rope(x.data() + h * dh, dh, position);
      const int64_t kv_head = h * config_.num_kv_heads / heads;
      for (int64_t c = 0; c < dh; ++c) {
        const size_t at = static_cast<size_t>(kv_head * dh + c);
        double& value = x[static_cast<size_t>(h * dh + c)];
        if (!crs.empty()) value *= crs[at];
        if (!shift.empty()) value -= shift[at];
      }
    }
    return x;
  }

  std::vector<double> Attend(const Rows& values, size_t t) const {
    const int64_t dh = config_.head_dim, group = config_.num_heads / config_.num_kv_heads;
    std::vector<double> out(queries[t].size(), 0.0);
    for (int64_t h = 0; h < config_.num_heads; ++h) {
      const int64_t kv = h / group * dh;
      std::vector<double> p(t + 1);
      double sum = 0.0;
      for (size_t s = 0; s <= t; ++s) {
        double dot = 0.0;
        for (int64_t c = 0; c < dh; ++c)
          dot += queries[t][static_cast<size_t>(h * dh + c)] *
                 keys[s].after_rope[static_cast<size_t>(kv + c)];
        p[s] = std::exp(dot / std::sqrt(static_cast<double>(dh)));
        sum += p[s];
      }
      for (size_t s = 0; s <= t; ++s)
        for (int64_t c = 0; c < dh; ++c)
          out[static_cast<size_t>(h * dh + c)] +=
              p[s] / sum * values[s][static_cast<size_t>(kv + c)];
    }
    return out;
  }

  static void Add(std::vector<double>& x, const std::vector<double>& y) {
    for (size_t i = 0; i < x.size(); ++i) x[i] += y[i];
  }

  const Block<double>& block_;
  const ModelConfig& config_;
};

}  // namespace fireq::quant::testing_support
