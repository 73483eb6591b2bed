// Norms, token quantisation and RoPE in double precision, as the served arithmetic defines them.
#pragma once

#include <cstdint>
#include <vector>

#include "fireq/ops/args.h"

namespace fireq::testing {

// x / sqrt(mean(x^2) + eps) * weight of one row.
std::vector<double> ReferenceRmsNorm(const std::vector<double>& x,
                                     const std::vector<double>& weight, double eps);

// Q or K of one head: optional norm (empty: none), RoPE at the angles whose cosines and sines are
// given, optional CRS factors, optional shift, optional orthonormal Hadamard transform.
struct HeadTurn {
  std::vector<double> norm, cos, sin, crs, shift;
  double eps = 0.0;
  bool hadamard = false;
};
std::vector<double> ReferenceTurn(const std::vector<double>& x, const HeadTurn& turn);

// How far a code's value may be from x * 448 / absmax when the product is only almost x's: half a
// step of E4M3 there, plus a little.
double E4M3HalfStep(double value);

}  // namespace fireq::testing
