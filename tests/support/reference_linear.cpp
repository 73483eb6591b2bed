#include "tests/support/reference_linear.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "fireq/base/math.h"
#include "fireq/formats/bf16.h"
#include "fireq/formats/f16.h"

namespace fireq::testing {

WeightI4 RandomWeightI4(int64_t n, int64_t k, float t, std::mt19937& rng) {
  const WeightI4Layout layout{n, k};
  WeightI4 w;
  w.n = n;
  w.k = k;
  w.t = t;
  w.codes = Tensor::Empty(DType::kU8, {n, layout.code_bytes_per_row()});
  w.scale = Tensor::Empty(DType::kE4M3, {n, layout.groups()});
  w.zero = Tensor::Empty(DType::kU8, {n, layout.groups()});
  for (int64_t i = 0; i < w.codes.num_elements(); ++i) {
    w.codes.as<uint8_t>()[i] = static_cast<uint8_t>(rng());
  }
  for (int64_t i = 0; i < w.scale.num_elements(); ++i) {
    // Every finite scale but zero, of either sign; mostly the middle of the range.
    const auto magnitude = static_cast<uint8_t>(i % 7 == 0 ? 1 + rng() % 126 : 32 + rng() % 32);
    w.scale.as<uint8_t>()[i] = static_cast<uint8_t>(magnitude | (rng() % 2 << 7));
    w.zero.as<uint8_t>()[i] = static_cast<uint8_t>(rng() % 16);
  }
  return w;
}

Tensor RandomTensor(DType dtype, Shape shape, float spread, std::mt19937& rng) {
  Tensor out = Tensor::Empty(dtype, std::move(shape));
  std::normal_distribution<float> normal(0.0f, spread);
  for (int64_t i = 0; i < out.num_elements(); ++i) {
    const float x = normal(rng);
    switch (dtype) {
      case DType::kF32:
        out.as<float>()[i] = x;
        break;
      case DType::kBF16:
        out.as<bf16_t>()[i] = FloatToBf16(x);
        break;
      case DType::kE4M3:
        out.as<e4m3_t>()[i] = FloatToE4M3(x);
        break;
      case DType::kI8:
        out.as<int8_t>()[i] = static_cast<int8_t>(std::lround(std::clamp(x, -127.0f, 127.0f)));
        break;
      case DType::kF16:
        // Sign, an exponent about 1 and a random mantissa.
        out.as<uint16_t>()[i] = static_cast<uint16_t>((rng() & 0x83FF) | ((12 + rng() % 4) << 10));
        break;
      default:
        Throw(ErrorCode::kInternal, "no random values of this type");
    }
  }
  return out;
}

Tensor Poisoned(DType dtype, Shape shape) {
  Tensor out = Tensor::Empty(dtype, std::move(shape));
  std::memset(out.data(), 0xFF, static_cast<size_t>(out.size_bytes()));
  return out;
}

double ValueAt(const Tensor& tensor, int64_t i) {
  switch (tensor.dtype()) {
    case DType::kF32:
      return tensor.as<float>()[i];
    case DType::kBF16:
      return Bf16ToFloat(tensor.as<bf16_t>()[i]);
    case DType::kF16:
      return F16ToFloat(tensor.as<uint16_t>()[i]);
    case DType::kE4M3:
      return E4M3ToFloat(tensor.as<e4m3_t>()[i]);
    case DType::kI8:
      return tensor.as<int8_t>()[i];
    default:
      Throw(ErrorCode::kInternal, "not a float tensor");
  }
}

std::vector<double> OperandsOf(const WeightI4& weight, Products products) {
  const WeightI4Layout layout{weight.n, weight.k};
  std::vector<double> out(static_cast<size_t>(weight.n * weight.k));
  for (int64_t n = 0; n < weight.n; ++n) {
    for (int64_t k = 0; k < weight.k; ++k) {
      const int64_t g = n * layout.groups() + k / kGroup;
      const int code = CodeAt(weight.codes.as<uint8_t>() + n * layout.code_bytes_per_row(), k);
      const int zero = weight.zero.as<uint8_t>()[g];
      const float s = E4M3ToFloat(weight.scale.as<e4m3_t>()[g]);
      const double exact = (code - zero) * static_cast<double>(s);
      const double operand =
          products == Products::kTable ? RoundToE4M3(static_cast<float>(exact)) : exact;
      out[static_cast<size_t>(n * weight.k + k)] = operand / weight.t;
    }
  }
  return out;
}

namespace {
std::vector<double> PartOperands(const LinearPart& part, Products products) {
  if (part.i4.codes.defined()) return OperandsOf(part.i4, products);
  std::vector<double> out(static_cast<size_t>(part.weight.num_elements()));
  for (size_t i = 0; i < out.size(); ++i) out[i] = ValueAt(part.weight, static_cast<int64_t>(i));
  return out;
}
}  // namespace

std::vector<double> ReferenceSums(const ActTensor& x, const std::vector<LinearPart>& parts,
                                  Products products, std::vector<double>* magnitude) {
  const int64_t tokens = x.values.dim(0);
  const int64_t k = x.values.dim(1);
  int64_t total = 0;
  std::vector<std::vector<double>> operands;
  for (const LinearPart& part : parts) {
    operands.push_back(PartOperands(part, products));
    total += static_cast<int64_t>(operands.back().size()) / k;
  }
  std::vector<double> y(static_cast<size_t>(tokens * total));
  if (magnitude != nullptr) magnitude->assign(y.size(), 0.0);
  for (int64_t t = 0; t < tokens; ++t) {
    const double scale = x.scale.defined() ? ValueAt(x.scale, t) : 1.0;
    size_t at = static_cast<size_t>(t * total);
    for (size_t p = 0; p < parts.size(); ++p) {
      const int64_t rows = static_cast<int64_t>(operands[p].size()) / k;
      for (int64_t n = 0; n < rows; ++n, ++at) {
        double sum = 0.0;
        double size = 0.0;
        for (int64_t i = 0; i < k; ++i) {
          const double product =
              ValueAt(x.values, t * k + i) * operands[p][static_cast<size_t>(n * k + i)];
          sum += product;
          size += std::abs(product);
        }
        const double bias = parts[p].bias.defined() ? ValueAt(parts[p].bias, n) : 0.0;
        y[at] = sum * scale + bias;
        if (magnitude != nullptr) (*magnitude)[at] = size * std::abs(scale) + std::abs(bias);
      }
    }
  }
  return y;
}

}  // namespace fireq::testing
