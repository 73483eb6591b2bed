// Kernels of the fit that are no matrix products. FP32 on the device, row-major; errors: kCuda.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "fireq/ops/input_fit.h"

namespace fireq::sm90 {

enum class RowForm : uint8_t { kF32, kBf16, kE4M3 };

// [rows, width], contiguous.
struct RowsView {
  const void* values = nullptr;
  RowForm form = RowForm::kF32;
  const float* scale = nullptr;  // [rows] of codes
};

// out [rows, width] = ahead - behind - bias; `behind` and `bias` [width] may be null.
void LaunchDifference(const RowsView& ahead, const RowsView& behind, const float* bias,
                      int64_t rows, int64_t width, float* out, cudaStream_t stream);

// energy [width] += sums of squares over the rows of x.
void LaunchAddEnergy(const float* x, int64_t rows, int64_t width, double* energy,
                     cudaStream_t stream);

// h [k, k] = (sums + term) / unit, of whose lower triangle (and what lies beside it) only the
// triangle is read; the diagonal is `energy`'s.
void LaunchDamp(const float* sums, const double* energy, int64_t k, double term, double unit,
                float* h, cudaStream_t stream);

// out[i, j] = h[order[i], order[j]]
void LaunchReorder(const float* h, const int32_t* order, int64_t k, float* out,
                   cudaStream_t stream);

// One diagonal block a [size <= kCholeskyBlock, size] in place to its lower Cholesky factor, and
// that factor's inverse [kCholeskyBlock, kCholeskyBlock], zeros above. *failed, if it was 0,
// becomes first + i + 1 for the first pivot i that is not positive.
inline constexpr int64_t kCholeskyBlock = 128;
void LaunchFactorBlock(float* a, int64_t stride, int64_t size, int64_t first, float* inverse,
                       int32_t* failed, cudaStream_t stream);

// feedback [k, k] of the factor of the reversed matrix (quant/moments.h): zeros but above the
// diagonal.
void LaunchFeedback(const float* factor, int64_t k, float* feedback, cudaStream_t stream);

// out [rows, cols] from in [cols, rows]: out[i, j] = in[j, i] * factor, or added to
// out[i, j] * keep.
void LaunchTurn(const float* in, int64_t rows, int64_t cols, float factor, float keep, float* out,
                cudaStream_t stream);

// out [k, n]: row place[j] is column j of w [n, k], times factor.
void LaunchTurnColumns(const float* w, int64_t n, int64_t k, const int32_t* place, float factor,
                       float* out, cudaStream_t stream);

// x[i] *= factor; out[i] = a[i] - b[i]
void LaunchScale(float* x, int64_t count, float factor, cudaStream_t stream);
void LaunchSubtract(const float* a, const float* b, int64_t count, float* out, cudaStream_t stream);

// The state of the solver on rows of W, turned so that rows lie side by side: [K, N] in the order
// of the plan, scales and zero points [groups, N].
struct CodeState {
  int64_t n = 0, k = 0;
  const float* target = nullptr;   // [K, N] t W
  float* work = nullptr;           // [K, N] what is wanted next, or the gradient
  float* value = nullptr;          // [K, N] what codes are worth
  uint8_t* code = nullptr;         // [K, N]
  float* scale = nullptr;          // [G, N]
  const float* zero = nullptr;     // [G, N]
  const int32_t* group = nullptr;  // [K] of each place
  const int32_t* place = nullptr;  // [K] of each column of W
};

// E4M3 scales and u8 zero points [N, G] to floats [G, N], and scales back.
void LaunchLoadGrid(const uint8_t* scales, const uint8_t* zeros, int64_t n, int64_t groups,
                    float* scale, float* zero, cudaStream_t stream);
void LaunchStoreScales(const float* scale, int64_t n, int64_t groups, uint8_t* scales,
                       cudaStream_t stream);

// Places [begin, begin + count), count <= kSolverBlock, one after another. `factors` is row `begin`
// of the feedback (kRound) or of H (kSweep) [K, K]; `left` [kSolverBlock, N] receives what each
// column leaves to those behind the block: target - value, or new value - old value.
enum class ColumnStep : uint8_t { kRound, kSweep };
inline constexpr int64_t kSolverBlock = 128;
void LaunchSolveColumns(const CodeState& state, ColumnStep step, ErrorProducts products,
                        const float* factors, int64_t begin, int64_t count, float* left,
                        cudaStream_t stream);

// The refit of one group's scales, `count` members. rows [count, K] of H and local [count, count].
void LaunchGatherGroup(const float* h, int64_t k, const int32_t* places, int64_t count, float* rows,
                       float* local, cudaStream_t stream);
// step [count, 4 N]: what the four neighbouring scales would change.
inline constexpr int kRefitTries = 4;
void LaunchTryScales(const CodeState& state, ErrorProducts products, int64_t group, int64_t count,
                     float* step, cudaStream_t stream);
// With curved = local step: the best of them or none. change [4, N] is scratch; taken [count, N]
// is the step of the choice, added to the values, and the scales are moved.
void LaunchTakeScales(const CodeState& state, ErrorProducts products, int64_t group, int64_t count,
                      const float* local, const float* step, const float* curved, float* change,
                      float* taken, cudaStream_t stream);

// codes [N, bytes]: two columns of W a byte, the even one low.
void LaunchPackCodes(const CodeState& state, int64_t bytes, uint8_t* codes, cudaStream_t stream);

}  // namespace fireq::sm90
