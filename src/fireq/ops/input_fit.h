// Fitting the linears behind one input to what they read, where the calibration tokens lie: sums
// over the tokens, the least-squares correction that follows from them, error-compensated codes.
//
// quant/ says which equations are solved, and solves them on the host (host_fit.h); a backend with
// faster arithmetic brings a Fitter of its own. Matrices in arguments are F32 on the host unless
// said otherwise. Letters: T tokens, K inputs, N outputs, M columns of the cross sums.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "fireq/ops/args.h"
#include "fireq/tensor/matrix.h"

namespace fireq {

// Which products the error of a code is measured with.
enum class ErrorProducts : uint8_t {
  kTable,
  kExact,
  kMean,  // the mean of both squared errors: the same bytes serve prefill (table), decode (exact)
};

// What the cross sums X^T Y of a followed model are about.
enum class FitTarget : uint8_t {
  kNone,
  kInput,   // Y [T, K] = X' - X: the float model's input less the followed one's
  kOutput,  // Y [T, N] = R' - R - bias: what the linear's product should be
};

struct FitShape {
  int64_t k = 0;
  bool full = false;  // all of X^T X, or its diagonal only
  FitTarget target = FitTarget::kNone;
  int64_t outputs = 0;  // N, for kOutput

  int64_t cross_columns() const {
    return target == FitTarget::kNone ? 0 : target == FitTarget::kInput ? k : outputs;
  }
};

// Some tokens, in the backend's memory.
struct FitTokens {
  ActTensor x;             // [T, K] what the linears read: border or E4M3
  ActTensor ahead;         // [T, M] X' or R', border; undefined without cross sums
  Tensor behind;           // [T, M] R, border; kOutput only
  const float* bias = {};  // [M] on the host, kOutput only; null: none
};

// What is added to diag(X^T X), and the unit in which sums then come: the mean of that diagonal.
struct FitDamping {
  double term = 1.0;
  double unit = 1.0;
};
// `damping` times the mean of `diagonal` [K]: positive, 1 if all inputs were zero.
FitDamping DampingOf(std::span<const double> diagonal, double damping);
// (diagonal + term) / unit: how much an error in each input channel matters.
std::vector<float> ImportanceOf(std::span<const double> diagonal, double damping);

class InputFit {
 public:
  virtual ~InputFit() = default;
  virtual const FitShape& shape() const = 0;

  // Errors: kCorrupt naming the fit if a sum is not finite, by Diagonal() at the latest.
  virtual void Add(const FitTokens& tokens) = 0;
  // diag(X^T X) [K] over all tokens added.
  virtual const std::vector<double>& Diagonal() = 0;

  // Entries of X^T X whose columns are in one group of 128: [K, 128], row k, column j for columns k
  // and 128 (k div 128) + j; 0 past K. Behind the last Add; only if all of X^T X is kept.
  virtual Matrix<float> WithinGroups() = 0;

  // Solves H C = X^T Y / unit for C [K, M], H = (X^T X + term) / unit; for kOutput the right side
  // has (term / unit) W^T added, W [N, K] being `weight` of the only linear there. Once, behind the
  // last Add; only if there are cross sums. Errors: kInternal naming `name` if H is not positive
  // definite.
  virtual void Correct(double damping, const Matrix<float>& weight, const std::string& name) = 0;
  // V [N, K] for w [N, K]: w + w C^T of an input's correction, C^T of an output's, w of none.
  virtual Matrix<float> Corrected(const Matrix<float>& w) = 0;

  // Orders and factorises H for SolveCodes. Errors: as Correct.
  virtual void Factorise(double damping, const std::string& name) = 0;
  // Fills codes of `out`, scales and zero points being there, and then moves both in `sweeps`
  // rounds of coordinate descent (quant/solver.h). w [N, K].
  virtual void SolveCodes(const Matrix<float>& w, ErrorProducts products, int64_t sweeps,
                          WeightI4& out) = 0;
};

// After a Cholesky factorisation of the [size, size] X^T X of the input `name`: `failed_at` is 0,
// or the first leading minor that is not positive. Throws kInvalidArgument then: there is too
// little calibration text for so little damping.
void CheckPositiveDefinite(int64_t failed_at, int64_t size, const std::string& name);

// Uses the backend that it was made for; one thread at a time.
class Fitter {
 public:
  virtual ~Fitter() = default;
  // `name` is of the input, for messages.
  virtual std::unique_ptr<InputFit> Start(const FitShape& shape, std::string name) = 0;
};

}  // namespace fireq
