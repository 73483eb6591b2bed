// Error-compensated codes and coordinate descent (quant/solver.h) with all rows of W side by side.
#pragma once

#include "fireq/backends/sm90/f32/f32_gemm.h"
#include "fireq/backends/sm90/fit/launch.h"
#include "fireq/tensor/matrix.h"
#include "fireq/tensor/weight_i4.h"

namespace fireq::sm90 {

// As quant::SolverPlan, on the device.
struct DevicePlan {
  Tensor hessian, feedback;  // F32 [K, K] in the order in which columns are rounded
  Tensor place;              // I32 [K] where each column of W is in that order
  Tensor group;              // I32 [K] the group of each place
};

// Of `order` [K]: place and group; the matrices are left to be filled.
DevicePlan MakePlaces(const std::shared_ptr<Stream>& stream, const std::vector<int32_t>& order);

// As quant::SolveCodes. Returns when `out` is filled.
void SolveCodesOnDevice(const std::shared_ptr<Stream>& stream, F32Gemm& gemm,
                        const Matrix<float>& w, const DevicePlan& plan, ErrorProducts products,
                        int64_t sweeps, WeightI4& out);

}  // namespace fireq::sm90
