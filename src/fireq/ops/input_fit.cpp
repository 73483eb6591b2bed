#include "fireq/ops/input_fit.h"

#include <algorithm>

#include "fireq/base/error.h"

namespace fireq {

FitDamping DampingOf(std::span<const double> diagonal, double damping) {
  const double k = static_cast<double>(diagonal.size());
  double mean = 0.0;
  for (const double d : diagonal) mean += d / k;
  FitDamping out;
  // A trace of damping keeps dead channels' weights defined.
  out.term = mean == 0.0 ? 1.0 : std::max(damping, 1e-6) * mean;
  out.unit = 0.0;
  for (const double d : diagonal) out.unit += (d + out.term) / k;
  return out;
}

std::vector<float> ImportanceOf(std::span<const double> diagonal, double damping) {
  // Scaled by the mean so that FP32 sums of errors stay in range for any activations.
  const FitDamping scale = DampingOf(diagonal, damping);
  std::vector<float> out(diagonal.size());
  for (size_t j = 0; j < out.size(); ++j)
    out[j] = static_cast<float>((diagonal[j] + scale.term) / scale.unit);
  return out;
}

void CheckPositiveDefinite(int64_t failed_at, int64_t size, const std::string& name) {
  FIREQ_CHECK(failed_at == 0, kInvalidArgument, name,
              ": X^T X with damping is not positive definite at ", failed_at, " of ", size,
              ": it takes more calibration text or more damping (weights.damping, follow.damping, "
              "follow.head.damping)");
}

}  // namespace fireq
