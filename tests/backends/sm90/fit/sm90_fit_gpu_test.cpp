// The fit on the GPU against the host's and against double, on shapes that end inside blocks.
#include "fireq/backends/sm90/fit/sm90_fitter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "fireq/backends/cpu/cpu_backend.h"
#include "fireq/backends/sm90/f32/f32_backend.h"
#include "fireq/backends/sm90/f32/f32_gemm.h"
#include "fireq/backends/sm90/runtime/device_buffer.h"
#include "fireq/formats/act_e4m3.h"
#include "fireq/quant/grid.h"
#include "fireq/quant/host_fit.h"
#include "fireq/quant/moments.h"
#include "tests/backends/sm90/needs_hopper.h"

namespace fireq {
namespace {

using testing::HasSubstr;

Tensor Random(Shape shape, uint32_t seed, float size = 1.0f) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal(0.0f, size);
  Tensor out = Tensor::Empty(DType::kF32, std::move(shape));
  for (int64_t i = 0; i < out.num_elements(); ++i) out.as<float>()[i] = normal(engine);
  return out;
}

Matrix<float> RandomMatrix(int64_t rows, int64_t cols, uint32_t seed, float size) {
  const Tensor values = Random({rows, cols}, seed, size);
  Matrix<float> out(rows, cols);
  std::copy_n(values.as<float>(), rows * cols, out.data.begin());
  return out;
}

// Correlated: a few strong directions over noise; channel `dead` is zero.
Tensor Activations(int64_t tokens, int64_t k, uint32_t seed, int64_t dead = -1) {
  const Tensor directions = Random({4, k}, seed), mix = Random({tokens, 4}, seed + 1);
  Tensor out = Random({tokens, k}, seed + 2, 0.4f);
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t j = 0; j < k; ++j) {
      float& x = out.as<float>()[t * k + j];
      for (int64_t d = 0; d < 4; ++d)
        x += mix.as<float>()[t * 4 + d] * directions.as<float>()[d * k + j];
      if (j == dead) x = 0.0f;
    }
  return out;
}

Tensor ToBf16(const Tensor& values) {
  Tensor out = Tensor::Empty(DType::kBF16, values.shape());
  std::transform(values.as<float>(), values.as<float>() + values.num_elements(), out.as<bf16_t>(),
                 FloatToBf16);
  return out;
}

double RelativeDistance(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0.0, norm = 0.0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += std::pow(double{a[i]} - b[i], 2);
    norm += std::pow(double{a[i]}, 2);
  }
  return std::sqrt(difference / norm);
}

TEST(F32Gemm, EqualsADoubleReference) {
  FIREQ_NEEDS_HOPPER();
  using sm90::Turn;
  const auto stream = std::make_shared<sm90::Stream>();
  sm90::F32Gemm gemm(stream);
  struct Case {
    int64_t m, n, k, batches;
    Turn turn_a, turn_b;
    float beta;
  };
  for (const Case& c : {Case{70, 33, 129, 1, Turn::kNo, Turn::kNo, 0.0f},
                        Case{65, 130, 40, 1, Turn::kYes, Turn::kNo, 1.0f},
                        Case{1, 7, 500, 1, Turn::kNo, Turn::kYes, 0.0f},
                        Case{64, 96, 32, 3, Turn::kNo, Turn::kYes, 0.0f}}) {
    const Tensor a = Random({c.batches, c.m * c.k}, 1), b = Random({c.batches, c.k * c.n}, 2);
    const Tensor old = Random({c.batches, c.m * c.n}, 3);
    const auto upload = [](const Tensor& t) {
      return sm90::DeviceBuffer<float>(
          std::vector<float>(t.as<float>(), t.as<float>() + t.num_elements()));
    };
    const auto da = upload(a), db = upload(b), dc = upload(old);
    const bool turn_a = c.turn_a == Turn::kYes, turn_b = c.turn_b == Turn::kYes;
    gemm.Run({.m = c.m,
              .n = c.n,
              .k = c.k,
              .a = {da.data(), turn_a ? c.m : c.k, c.turn_a, c.m * c.k},
              .b = {db.data(), turn_b ? c.k : c.n, c.turn_b, c.k * c.n},
              .c = dc.data(),
              .c_stride = c.n,
              .alpha = -0.5f,
              .beta = c.beta,
              .batches = c.batches,
              .c_batch = c.m * c.n});
    stream->Synchronize();
    const std::vector<float> got = dc.ToHost();
    for (int64_t batch = 0; batch < c.batches; ++batch)
      for (int64_t i = 0; i < c.m; ++i)
        for (int64_t j = 0; j < c.n; ++j) {
          double want = 0.0;
          for (int64_t k = 0; k < c.k; ++k)
            want +=
                double{a.as<float>()[batch * c.m * c.k + (turn_a ? k * c.m + i : i * c.k + k)]} *
                b.as<float>()[batch * c.k * c.n + (turn_b ? j * c.k + k : k * c.n + j)];
          const int64_t at = (batch * c.m + i) * c.n + j;
          want = -0.5 * want + c.beta * double{old.as<float>()[at]};
          // FP32 sums: TF32 operands would miss by 1e-2.
          ASSERT_NEAR(got[static_cast<size_t>(at)], want, 1e-4) << c.m << " at " << i << ", " << j;
        }
  }
}

struct FitCase {
  const char* name;
  int64_t tokens, k, n;
  FitTarget target;
  DType border;  // of the residual streams and unquantised inputs
  bool codes;    // x in E4M3
  int64_t dead = -1;
};
std::ostream& operator<<(std::ostream& out, const FitCase& c) { return out << c.name; }

// The same tokens to both fits.
class FitTest : public testing::TestWithParam<FitCase> {
 protected:
  void SetUp() override {
    FIREQ_NEEDS_HOPPER();
    const FitCase& c = GetParam();
    device_ = MakeSm90FloatBackend();
    device_fitter_ = MakeSm90Fitter(*device_);
    const FitShape shape{c.k, true, c.target, c.n};
    const_cast<Matrix<float>&>(w_) = RandomMatrix(c.n, c.k, 7, 0.05f);
    host_fit_ = host_fitter_.Start(shape, "x");
    device_fit_ = device_fitter_->Start(shape, "x");
    for (const uint32_t window : {0u, 1u, 2u}) AddWindow(window);
  }

  void AddWindow(uint32_t window) {
    const FitCase& c = GetParam();
    const Tensor x = Activations(c.tokens, c.k, 10 + window, c.dead);
    FitTokens tokens;
    tokens.x = c.codes ? ToCodes(x) : ActTensor{Border(x), {}, {}};
    if (c.target == FitTarget::kInput) {
      const Tensor gap = Random({c.tokens, c.k}, 20 + window, 0.2f);
      for (int64_t i = 0; i < x.num_elements(); ++i) gap.as<float>()[i] += x.as<float>()[i];
      tokens.ahead = {gap, {}, {}};
    }
    if (c.target == FitTarget::kOutput) {
      tokens.ahead = {Random({c.tokens, c.n}, 30 + window), {}, {}};
      tokens.behind = Border(Random({c.tokens, c.n}, 40 + window));
      tokens.bias = w_.data.data();  // any n numbers
    }
    host_fit_->Add(tokens);
    const auto up = [&](const Tensor& t) { return t.defined() ? device_->Upload(t) : t; };
    const auto up_act = [&](const ActTensor& t) {
      return ActTensor{up(t.values), up(t.scale), up(t.sums)};
    };
    device_fit_->Add({.x = up_act(tokens.x),
                      .ahead = up_act(tokens.ahead),
                      .behind = up(tokens.behind),
                      .bias = tokens.bias});
  }

  Tensor Border(const Tensor& values) const {
    return GetParam().border == DType::kBF16 ? ToBf16(values) : values;
  }

  ActTensor ToCodes(const Tensor& x) {
    const int64_t rows = x.dim(0), k = x.dim(1);
    ActTensor out{Tensor::Empty(DType::kE4M3, {rows, k}), Tensor::Empty(DType::kF32, {rows}),
                  Tensor::Empty(DType::kF32, {rows, CeilDiv<int64_t>(k, kGroup)})};
    cpu_->Quantize({.x = x, .out = out});
    return out;
  }

  ThreadPool pool_{4};
  std::unique_ptr<Backend> cpu_ = MakeCpuBackend({.num_threads = 4});
  quant::HostFitter host_fitter_{*cpu_, pool_};
  std::unique_ptr<Backend> device_;
  std::unique_ptr<Fitter> device_fitter_;
  Matrix<float> w_;
  std::unique_ptr<InputFit> host_fit_, device_fit_;
};

TEST_P(FitTest, SumsAndCorrectionEqualTheHosts) {
  const std::vector<double>&want = host_fit_->Diagonal(), &got = device_fit_->Diagonal();
  ASSERT_EQ(got.size(), want.size());
  for (size_t j = 0; j < want.size(); ++j) ASSERT_NEAR(got[j], want[j], 1e-5 * (want[j] + 1.0));
  EXPECT_LT(RelativeDistance(host_fit_->WithinGroups().data, device_fit_->WithinGroups().data),
            1e-5);
  if (GetParam().target == FitTarget::kNone) {
    EXPECT_EQ(device_fit_->Corrected(w_).data, w_.data);
    return;
  }
  host_fit_->Correct(0.5, w_, "w");
  device_fit_->Correct(0.5, w_, "w");
  const Matrix<float> v = host_fit_->Corrected(w_);
  EXPECT_LT(RelativeDistance(v.data, device_fit_->Corrected(w_).data), 2e-4);
  EXPECT_GT(RelativeDistance(v.data, w_.data), 1e-2);  // there was something to correct
}

// tr((W_hat - W) H (W_hat - W)^T) over its value at W_hat = 0, in double.
double RelativeError(const Matrix<float>& w, const WeightI4& stored, const Matrix<float>& h,
                     Products products) {
  double error = 0.0, norm = 0.0;
  std::vector<float> row(static_cast<size_t>(w.cols));
  for (int64_t n = 0; n < w.rows; ++n) {
    quant::DequantizeRow(stored, n, products, row.data());
    for (int64_t i = 0; i < w.cols; ++i) {
      double product = 0.0, own = 0.0;
      for (int64_t j = 0; j < w.cols; ++j) {
        product += double{h.at(i, j)} * (row[static_cast<size_t>(j)] - w.at(n, j));
        own += double{h.at(i, j)} * w.at(n, j);
      }
      error += product * (row[static_cast<size_t>(i)] - w.at(n, i));
      norm += own * w.at(n, i);
    }
  }
  return error / norm;
}

TEST_P(FitTest, CodesAreAsGoodAsTheHosts) {
  const FitCase& c = GetParam();
  constexpr double kDamping = 0.1;
  quant::InputMoments moments(c.k, true);
  for (const uint32_t window : {0u, 1u, 2u}) {
    const Tensor x = Activations(c.tokens, c.k, 10 + window, c.dead);
    moments.Add(x.as<float>(), c.tokens, "x", pool_);
  }
  const Matrix<float> h = moments.Damped(kDamping);
  host_fit_->Factorise(kDamping, "w");
  device_fit_->Factorise(kDamping, "w");
  for (const ErrorProducts products :
       {ErrorProducts::kTable, ErrorProducts::kExact, ErrorProducts::kMean}) {
    for (const int64_t sweeps : {0, 2}) {
      const float t = quant::ChooseTensorScale(w_, pool_);
      WeightI4 host = quant::MakeWeightI4(c.n, c.k, t), device = quant::MakeWeightI4(c.n, c.k, t);
      for (WeightI4* out : {&host, &device})
        quant::SearchScales(w_, moments.Importance(kDamping),
                            {quant::WeightGrid::kAsymmetric, true, products}, pool_, *out);
      host_fit_->SolveCodes(w_, products, sweeps, host);
      device_fit_->SolveCodes(w_, products, sweeps, device);
      int64_t same = 0;
      for (int64_t i = 0; i < host.codes.num_elements(); ++i)
        same += host.codes.as<uint8_t>()[i] == device.codes.as<uint8_t>()[i];
      // Where a sum falls on the other side of a border, the columns behind it differ, too.
      EXPECT_GT(same, host.codes.num_elements() * 6 / 10) << c.name << ", sweeps " << sweeps;
      const Products served =
          products == ErrorProducts::kExact ? Products::kExact : Products::kTable;
      const double want = RelativeError(w_, host, h, served);
      const double got = RelativeError(w_, device, h, served);
      EXPECT_NEAR(got / want, 1.0, 0.03)
          << c.name << ", products " << static_cast<int>(products) << ", sweeps " << sweeps;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, FitTest,
    testing::Values(FitCase{"one_block", 60, 48, 9, FitTarget::kNone, DType::kF32, false},
                    FitCase{"input_codes", 170, 300, 70, FitTarget::kInput, DType::kF32, true},
                    FitCase{"input_bf16_dead", 150, 256, 33, FitTarget::kInput, DType::kBF16, false,
                            17},
                    FitCase{"output_codes", 200, 330, 64, FitTarget::kOutput, DType::kBF16, true},
                    FitCase{"output_f32", 90, 200, 131, FitTarget::kOutput, DType::kF32, false},
                    // Over a panel of X^T X and a strip of the factorisation.
                    FitCase{"wide", 64, 2200, 40, FitTarget::kInput, DType::kF32, true}),
    [](const auto& tested) { return std::string(tested.param.name); });

TEST(Sm90Fit, NamesWhatIsNotFinite) {
  FIREQ_NEEDS_HOPPER();
  const auto backend = MakeSm90FloatBackend();
  const auto fitter = MakeSm90Fitter(*backend);
  const auto fit = fitter->Start({.k = 40, .full = true}, "layer 3 mlp_hidden");
  const Tensor x = Activations(20, 40, 1);
  x.as<float>()[5 * 40 + 7] = std::numeric_limits<float>::quiet_NaN();
  fit->Add({.x = {backend->Upload(x), {}, {}}});
  try {
    fit->Diagonal();
    FAIL() << "a NaN was taken";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kCorrupt);
    EXPECT_THAT(error.what(), HasSubstr("layer 3 mlp_hidden: activations of channel 7"));
  }
}

// One direction only: damping keeps the system solvable.
TEST(Sm90Fit, ARankOneHessianIsSolved) {
  FIREQ_NEEDS_HOPPER();
  const auto backend = MakeSm90FloatBackend();
  const auto fitter = MakeSm90Fitter(*backend);
  const auto fit = fitter->Start({.k = 200, .full = true}, "x");
  fit->Add({.x = {backend->Upload(Random({1, 200}, 5)), {}, {}}});
  fit->Factorise(0.01, "w");
  const Matrix<float> w = RandomMatrix(5, 200, 6, 0.05f);
  ThreadPool pool(1);
  WeightI4 out = quant::MakeWeightI4(5, 200, 1.0f);
  quant::SearchScales(w, std::vector<float>(200, 1.0f),
                      {quant::WeightGrid::kAsymmetric, true, ErrorProducts::kExact}, pool, out);
  fit->SolveCodes(w, ErrorProducts::kExact, 1, out);
  std::vector<float> row(200);
  for (int64_t n = 0; n < 5; ++n) {
    quant::DequantizeRow(out, n, Products::kExact, row.data());
    for (size_t k = 0; k < row.size(); ++k)
      EXPECT_NEAR(row[k], w.at(n, static_cast<int64_t>(k)), 0.06f);
  }
}

}  // namespace
}  // namespace fireq
