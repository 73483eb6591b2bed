#include "tests/support/reference_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "fireq/base/math.h"
#include "fireq/formats/act_e4m3.h"
#include "fireq/formats/e4m3.h"

namespace fireq::testing {
namespace {

void FillPages(AttentionCase& c, std::mt19937& rng) {
  const KvPageHost host(c.layout);
  const int dim = c.layout.head_dim;
  std::normal_distribution<float> normal;
  std::vector<float> offset(dim), gain(dim), x(dim);
  for (int d = 0; d < dim; ++d) {
    offset[d] = 0.5f * normal(rng);
    gain[d] = d % 37 == 5 ? 4.0f : 1.0f;
  }
  for (int s = 0; s < c.num_sequences(); ++s) {
    for (int t = 0; t < c.context_len[s]; ++t) {
      const int64_t number = c.page_table[s * c.max_pages + t / kTokensPerPage];
      uint8_t* page = c.pages.data() + number * c.layout.page_bytes();
      for (int h = 0; h < c.layout.kv_heads; ++h) {
        for (int d = 0; d < dim; ++d) x[d] = normal(rng) * gain[d] + offset[d];
        host.StoreK(page, h, t % kTokensPerPage, x.data());
        for (int d = 0; d < dim; ++d) x[d] = normal(rng) + offset[d];
        host.StoreV(page, h, t % kTokensPerPage, x.data());
      }
    }
  }
}

void FillQueries(AttentionCase& c, std::mt19937& rng) {
  const int dim = c.layout.head_dim;
  std::normal_distribution<float> normal;
  std::vector<float> x(dim);
  c.q.resize(int64_t{c.num_tokens()} * c.num_heads * dim);
  c.q_scale.resize(int64_t{c.num_tokens()} * c.num_heads);
  for (size_t row = 0; row < c.q_scale.size(); ++row) {
    float absmax = 0.0f;
    for (float& value : x) {
      value = normal(rng) + 0.25f;
      absmax = std::max(absmax, std::abs(value));
    }
    const TokenScale scale = MakeTokenScale(absmax);
    c.q_scale[row] = scale.scale;
    for (int d = 0; d < dim; ++d) c.q[row * dim + d] = FloatToE4M3(x[d] * scale.inv_scale);
  }
}

double RoundProb(double p, ProbRounding rounding) {
  return rounding == ProbRounding::kNone ? p : double{RoundToE4M3(static_cast<float>(p))};
}

struct Vectors {  // of one sequence and KV head, codes and zero points apart
  std::vector<uint8_t> k, v;
  std::vector<KvScale> k_scale, v_scale;
};

Vectors ReadCache(const AttentionCase& c, int s, int kv_head) {
  const int dim = c.layout.head_dim;
  Vectors out;
  for (int t = 0; t < c.context_len[s]; ++t) {
    const int64_t number = c.page_table[s * c.max_pages + t / kTokensPerPage];
    const uint8_t* block =
        c.pages.data() + number * c.layout.page_bytes() + c.layout.head_offset(kv_head);
    const int at = t % kTokensPerPage;
    for (int d = 0; d < dim; ++d) {
      out.k.push_back(GetCode(block, c.layout.KCode(at, d)));
      out.v.push_back(GetCode(block, c.layout.VCode(at, d)));
    }
    out.k_scale.push_back(
        GetKvScale(block, c.layout.k_scale_offset(), c.layout.k_zero_offset(), at));
    out.v_scale.push_back(
        GetKvScale(block, c.layout.v_scale_offset(), c.layout.v_zero_offset(), at));
  }
  return out;
}

// One row: `keys` keys are visible.
void AttendRow(const Vectors& cache, const uint8_t* q, float q_scale, int dim, int keys,
               ProbRounding rounding, double* out) {
  std::fill(out, out + dim, 0.0);
  if (keys <= 0) return;
  std::vector<double> scores(keys);
  double query_sum = 0.0;
  for (int d = 0; d < dim; ++d) query_sum += E4M3ToFloat(q[d]);
  double max_score = -std::numeric_limits<double>::infinity();
  double max_scale = 0.0;
  for (int t = 0; t < keys; ++t) {
    double dot = 0.0;
    for (int d = 0; d < dim; ++d) dot += double{E4M3ToFloat(q[d])} * cache.k[t * dim + d];
    dot -= cache.k_scale[t].zero * query_sum;
    scores[t] = dot * q_scale * Bf16ToFloat(cache.k_scale[t].scale) / std::sqrt(double(dim)) /
                std::log(2.0);
    max_score = std::max(max_score, scores[t]);
    max_scale = std::max(max_scale, std::abs(double{Bf16ToFloat(cache.v_scale[t].scale)}));
  }
  const double m = std::ceil(max_score);
  const double r = std::exp2(std::ceil(std::log2(max_scale)));
  double l = 0.0;
  for (int t = 0; t < keys; ++t) {
    const double p = std::exp2(scores[t] - m);
    l += p;
    const double rounded = RoundProb(256.0 * p * Bf16ToFloat(cache.v_scale[t].scale) / r, rounding);
    for (int d = 0; d < dim; ++d) {
      out[d] += rounded * (int{cache.v[t * dim + d]} - int{cache.v_scale[t].zero});
    }
  }
  for (int d = 0; d < dim; ++d) out[d] *= r / (256.0 * l);
}

}  // namespace

AttentionCase MakeAttentionCase(const AttentionShape& shape, uint32_t seed) {
  std::mt19937 rng(seed);
  AttentionCase c;
  c.layout = shape.layout;
  c.num_heads = shape.num_heads;
  c.context_len = shape.context_len;
  c.query_start.assign(1, 0);
  int num_pages = 0;
  for (size_t s = 0; s < shape.context_len.size(); ++s) {
    c.query_start.push_back(c.query_start.back() + shape.query_len[s]);
    const int pages = CeilDiv(shape.context_len[s], kTokensPerPage);
    c.max_pages = std::max(c.max_pages, pages + 1);
    num_pages += pages;
  }
  std::vector<int32_t> order(num_pages + 3);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), rng);
  c.page_table.assign(int64_t{c.num_sequences()} * c.max_pages, -1);
  int used = 0;
  for (int s = 0; s < c.num_sequences(); ++s) {
    for (int p = 0; p < CeilDiv(c.context_len[s], kTokensPerPage); ++p)
      c.page_table[s * c.max_pages + p] = order[used++];
  }
  c.pages.assign(static_cast<int64_t>(order.size()) * c.layout.page_bytes(), 0xFF);
  FillPages(c, rng);
  FillQueries(c, rng);
  return c;
}

std::vector<double> ReferenceAttention(const AttentionCase& c, ProbRounding rounding) {
  const int dim = c.layout.head_dim;
  const int group = c.num_heads / c.layout.kv_heads;
  std::vector<double> out(int64_t{c.num_tokens()} * c.num_heads * dim);
  for (int s = 0; s < c.num_sequences(); ++s) {
    const int rows = c.query_start[s + 1] - c.query_start[s];
    for (int kv = 0; kv < c.layout.kv_heads; ++kv) {
      const Vectors cache = ReadCache(c, s, kv);
      for (int i = 0; i < rows * group; ++i) {
        const int64_t token = c.query_start[s] + i / group;
        const int64_t row = token * c.num_heads + kv * group + i % group;
        AttendRow(cache, c.q.data() + row * dim, c.q_scale[row], dim,
                  c.context_len[s] - rows + i / group + 1, rounding, out.data() + row * dim);
      }
    }
  }
  return out;
}

double RelativeError(const std::vector<float>& actual, const std::vector<double>& expected) {
  if (actual.size() != expected.size()) return std::numeric_limits<double>::quiet_NaN();
  double error = 0.0;
  double norm = 0.0;
  for (size_t i = 0; i < expected.size(); ++i) {
    error += (actual[i] - expected[i]) * (actual[i] - expected[i]);
    norm += expected[i] * expected[i];
  }
  return expected.empty() ? 0.0 : std::sqrt(error / norm);
}

}  // namespace fireq::testing
