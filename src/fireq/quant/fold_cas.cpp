#include "fireq/quant/fold_cas.h"

#include <algorithm>
#include <cmath>

namespace fireq::quant {
namespace {

// Sum or maximum of |W| down each column of several consumers of one input.
class ColumnSizes {
 public:
  ColumnSizes(int64_t columns, CasKind kind)
      : kind_(kind), sizes_(static_cast<size_t>(columns), 0.0) {}

  // Column j of `weight` counts towards entry target(j).
  template <class T, class Target>
  void Add(const Matrix<T>& weight, const Target& target) {
    for (int64_t n = 0; n < weight.rows; ++n) {
      for (int64_t k = 0; k < weight.cols; ++k) {
        double& size = sizes_[static_cast<size_t>(target(k))];
        const double magnitude = std::fabs(static_cast<double>(weight.at(n, k)));
        size = kind_ == CasKind::kAbsMax ? std::max(size, magnitude) : size + magnitude;
      }
    }
    counted_ += static_cast<double>(weight.rows * weight.cols) / static_cast<double>(sizes_.size());
  }

  std::vector<double> Lambdas() const {
    std::vector<double> lambdas(sizes_);
    double log_sum = 0.0;
    for (double& lambda : lambdas) {
      const double size = kind_ == CasKind::kAbsMax ? lambda : lambda / counted_;
      lambda = 1.0 / std::max(size, 1e-8);
      log_sum += std::log(lambda);
    }
    const double c = std::exp(-log_sum / static_cast<double>(lambdas.size()));
    for (double& lambda : lambdas) lambda *= c;
    return lambdas;
  }

 private:
  CasKind kind_;
  std::vector<double> sizes_;
  double counted_ = 0.0;  // rows that each entry has seen
};

template <class T>
std::vector<T> Cast(const std::vector<double>& values) {
  return {values.begin(), values.end()};
}

}  // namespace

template <class T>
void FoldCas(Block<T>& block, const ModelConfig& config, const Recipe& recipe) {
  const auto same = [](int64_t k) { return k; };
  if (recipe.CasLambda(3)) {
    ColumnSizes sizes(block.down.weight.cols, recipe.cas);
    sizes.Add(block.down.weight, same);
    const std::vector<T> lambdas = Cast<T>(sizes.Lambdas());
    ScaleColumns(block.down.weight, lambdas);
    for (int64_t row = 0; row < block.up.weight.rows; ++row)
      ScaleRow(block.up, row, T{1} / lambdas[static_cast<size_t>(row)]);
  }
  if (recipe.CasLambda(2)) {
    ColumnSizes sizes(block.up.weight.cols, recipe.cas);
    sizes.Add(block.gate.weight, same);
    sizes.Add(block.up.weight, same);
    const std::vector<T> lambdas = Cast<T>(sizes.Lambdas());
    ScaleColumns(block.gate.weight, lambdas);
    ScaleColumns(block.up.weight, lambdas);
    for (size_t j = 0; j < lambdas.size(); ++j) block.mlp_norm[j] /= lambdas[j];
  }
  if (recipe.CasLambda(1)) {
    const int64_t head_dim = config.head_dim;
    const int64_t group = config.num_heads / config.num_kv_heads;
    const auto v_row = [=](int64_t k) { return (k / head_dim) / group * head_dim + k % head_dim; };
    ColumnSizes sizes(block.v.weight.rows, recipe.cas);
    sizes.Add(block.o.weight, v_row);
    const std::vector<T> lambdas = Cast<T>(sizes.Lambdas());
    std::vector<T> columns(static_cast<size_t>(block.o.weight.cols));
    for (size_t k = 0; k < columns.size(); ++k)
      columns[k] = lambdas[static_cast<size_t>(v_row(static_cast<int64_t>(k)))];
    ScaleColumns(block.o.weight, columns);
    for (int64_t row = 0; row < block.v.weight.rows; ++row)
      ScaleRow(block.v, row, T{1} / lambdas[static_cast<size_t>(row)]);
  }
}

template void FoldCas<float>(Block<float>&, const ModelConfig&, const Recipe&);
template void FoldCas<double>(Block<double>&, const ModelConfig&, const Recipe&);

}  // namespace fireq::quant
