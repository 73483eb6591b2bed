#include "fireq/tensor/weight_i4.h"

#include <algorithm>
#include <cmath>

namespace fireq {
namespace {

// Bytes of a tensor that fail `valid`: throws at the first, naming its row and group.
template <class Valid>
void CheckEveryByte(const Tensor& tensor, const std::string& name, const char* what,
                    const Valid& valid) {
  if (tensor.space() != MemorySpace::kHost) return;
  const uint8_t* bytes = tensor.as<uint8_t>();
  const int64_t columns = std::max<int64_t>(tensor.dim(1), 1);
  for (int64_t i = 0; i < tensor.num_elements(); ++i) {
    FIREQ_CHECK(valid(bytes[i]), kCorrupt, name, ": ", what, " of byte value ", bytes[i],
                " at row ", i / columns, ", group ", i % columns);
  }
}

void CheckShape(const Tensor& tensor, DType dtype, const Shape& shape, const std::string& name) {
  FIREQ_CHECK(tensor.defined() && tensor.dtype() == dtype && tensor.shape() == shape,
              kShapeMismatch, name, ": expected ", Name(dtype), " ", ToString(shape), ", got ",
              Name(tensor.dtype()), " ", ToString(tensor.shape()));
}

}  // namespace

std::vector<std::pair<std::string, Tensor>> PartsOf(const WeightI4& weight,
                                                    const std::string& linear) {
  return {{linear + kStoredCodes, weight.codes},
          {linear + kStoredScale, weight.scale},
          {linear + kStoredZero, weight.zero},
          {linear + kStoredT, Tensor::FromVector<float>(DType::kF32, {}, {weight.t})}};
}

void CheckWeightI4(const WeightI4& weight, const std::string& linear) {
  const WeightI4Layout layout = {weight.n, weight.k};
  FIREQ_CHECK(layout.n > 0 && layout.k > 0, kShapeMismatch, linear, ": [", layout.n, ", ", layout.k,
              "] is empty");
  CheckShape(weight.codes, DType::kU8, {layout.n, layout.code_bytes_per_row()},
             linear + kStoredCodes);
  CheckShape(weight.scale, DType::kE4M3, {layout.n, layout.groups()}, linear + kStoredScale);
  CheckShape(weight.zero, DType::kU8, {layout.n, layout.groups()}, linear + kStoredZero);
  int exponent = 0;
  FIREQ_CHECK(std::isnormal(weight.t) && std::frexp(weight.t, &exponent) == 0.5f, kCorrupt, linear,
              kStoredT, ": ", weight.t, " is not a power of two");
  CheckEveryByte(weight.scale, linear + kStoredScale, "a zero or NaN scale", [](uint8_t code) {
    const int magnitude = code & 0x7F;
    return magnitude != 0 && magnitude != 0x7F;
  });
  CheckEveryByte(weight.zero, linear + kStoredZero, "a zero point above 15",
                 [](uint8_t zero) { return zero <= kCodeMax; });
}

}  // namespace fireq
