#include "fireq/quant/fold_rope.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "fireq/base/error.h"

namespace fireq::quant {
namespace {

// The channels of one KV head that CRS scales: the top_k by maximum, ties to the lower index, and
// their RoPE partners.
std::vector<bool> CrsChannels(const float* channel_max, int64_t head_dim, int64_t top_k) {
  std::vector<int64_t> order(static_cast<size_t>(head_dim));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return channel_max[a] > channel_max[b]; });
  std::vector<bool> touched(static_cast<size_t>(head_dim), false);
  for (int64_t i = 0; i < std::min(top_k, head_dim); ++i) {
    const int64_t channel = order[static_cast<size_t>(i)];
    touched[static_cast<size_t>(channel)] = true;
    touched[static_cast<size_t>((channel + head_dim / 2) % head_dim)] = true;
  }
  return touched;
}

// D_f of one pair from what was seen of it; 1 if it is always zero.
struct PairSeen {
  double norm = 0.0, key_energy = 0.0, query_energy = 0.0;

  double Factor(const Recipe& recipe) const {
    if (recipe.rpn) return norm > 0.0 ? recipe.rpn_alpha / norm : 1.0;
    if (recipe.smooth_qk) return norm > 0.0 ? 1.0 / std::sqrt(norm) : 1.0;
    if (!(key_energy > 0.0 && query_energy > 0.0)) return 1.0;
    return std::sqrt(std::sqrt(query_energy / key_energy));
  }
};

// Of each pair of each KV head [Hk, Dh/2]; 1 where CRS has its own factors.
std::vector<double> PairFactors(const ModelConfig& config, const Recipe& recipe,
                                const KeyRanges& ranges, const std::vector<bool>& crs_pairs) {
  std::vector<double> factors(ranges.pair_norm.size(), 1.0);
  const size_t half = static_cast<size_t>(config.head_dim / 2);
  for (size_t i = 0; i < factors.size(); ++i) {
    // With a q/k norm all heads share the norm's weight, so they share the factor.
    const size_t first = config.qk_norm ? i % half : i;
    const size_t last = config.qk_norm ? factors.size() : i + 1;
    PairSeen seen;
    bool skip = false;
    for (size_t j = first; j < last; j += half) {
      seen.norm = std::max(seen.norm, double{ranges.pair_norm[j]});
      seen.key_energy += ranges.key_energy[j];
      seen.query_energy += ranges.query_energy[j];
      skip = skip || crs_pairs[j];
    }
    if (!skip) factors[i] = seen.Factor(recipe);
  }
  return factors;
}

template <class T>
void ScalePairs(Block<T>& block, const ModelConfig& config, const std::vector<double>& factors) {
  const int64_t head_dim = config.head_dim, half = head_dim / 2;
  if (config.qk_norm) {
    for (int64_t c = 0; c < head_dim; ++c) {
      const T factor = static_cast<T>(factors[static_cast<size_t>(c % half)]);
      block.k_norm[static_cast<size_t>(c)] *= factor;
      block.q_norm[static_cast<size_t>(c)] /= factor;
    }
    return;
  }
  const int64_t group = config.num_heads / config.num_kv_heads;
  for (int64_t row = 0; row < config.q_rows(); ++row) {
    const int64_t head = row / head_dim / group, channel = row % head_dim;
    const double factor = factors[static_cast<size_t>(head * half + channel % half)];
    ScaleRow(block.q, row, static_cast<T>(1.0 / factor));
  }
  for (int64_t row = 0; row < config.kv_rows(); ++row) {
    const int64_t head = row / head_dim, channel = row % head_dim;
    const double factor = factors[static_cast<size_t>(head * half + channel % half)];
    ScaleRow(block.k, row, static_cast<T>(factor));
  }
}

}  // namespace

template <class T>
std::vector<float> FoldRope(Block<T>& block, const ModelConfig& config, const Recipe& recipe,
                            const KeyRanges& ranges) {
  const int64_t heads = config.num_kv_heads, head_dim = config.head_dim, half = head_dim / 2;
  FIREQ_CHECK(std::ssize(ranges.pair_norm) == heads * half &&
                  std::ssize(ranges.channel_max) == heads * head_dim &&
                  ranges.key_energy.size() == ranges.pair_norm.size() &&
                  ranges.query_energy.size() == ranges.pair_norm.size(),
              kShapeMismatch, "RoPE statistics of ", ranges.pair_norm.size(), " pairs for ", heads,
              " heads of ", head_dim);
  std::vector<float> key_factors(ranges.channel_max.size(), 1.0f);
  std::vector<bool> crs_pairs(ranges.pair_norm.size(), false);
  if (recipe.crs) {
    block.crs_k.assign(static_cast<size_t>(heads * head_dim), T{1});
    block.crs_q = block.crs_k;
    for (int64_t head = 0; head < heads; ++head) {
      const float* maxima = ranges.channel_max.data() + head * head_dim;
      const std::vector<bool> touched = CrsChannels(maxima, head_dim, recipe.crs_top_k);
      for (int64_t c = 0; c < head_dim; ++c) {
        if (!touched[static_cast<size_t>(c)]) continue;
        crs_pairs[static_cast<size_t>(head * half + c % half)] = true;
        if (maxima[c] == 0.0f) continue;
        const size_t at = static_cast<size_t>(head * head_dim + c);
        block.crs_k[at] = static_cast<T>(recipe.crs_beta / double{maxima[c]});
        block.crs_q[at] = static_cast<T>(double{maxima[c]} / recipe.crs_beta);
        key_factors[at] = static_cast<float>(block.crs_k[at]);
      }
    }
  }
  if (recipe.rpn || recipe.balance_qk || recipe.smooth_qk) {
    const std::vector<double> factors = PairFactors(config, recipe, ranges, crs_pairs);
    ScalePairs(block, config, factors);
    for (int64_t i = 0; i < heads * head_dim; ++i)
      key_factors[static_cast<size_t>(i)] *= static_cast<float>(
          factors[static_cast<size_t>(i / head_dim * half + i % head_dim % half)]);
  }
  if (recipe.shift_k > 0.0) {
    FIREQ_CHECK(ranges.channel_mean.size() == key_factors.size(), kShapeMismatch, "means of ",
                ranges.channel_mean.size(), " channels of K, not ", key_factors.size());
    for (size_t i = 0; i < key_factors.size(); ++i)
      block.key_shift.push_back(
          static_cast<T>(recipe.shift_k * ranges.channel_mean[i] * double{key_factors[i]}));
  }
  return key_factors;
}

template std::vector<float> FoldRope<float>(Block<float>&, const ModelConfig&, const Recipe&,
                                            const KeyRanges&);
template std::vector<float> FoldRope<double>(Block<double>&, const ModelConfig&, const Recipe&,
                                             const KeyRanges&);

}  // namespace fireq::quant
