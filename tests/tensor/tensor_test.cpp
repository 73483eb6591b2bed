#include "fireq/tensor/tensor.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>

namespace fireq {
namespace {

TEST(Tensor, RowsAndReshapeShareBytes) {
  const Tensor t = Tensor::FromVector(DType::kF32, {3, 2}, std::vector<float>{0, 1, 2, 3, 4, 5});
  const Tensor middle = t.Rows(1, 3);
  EXPECT_EQ(middle.shape(), (Shape{2, 2}));
  EXPECT_EQ(middle.as<float>()[0], 2.0f);
  middle.as<float>()[0] = 9.0f;
  EXPECT_EQ(t.Reshape({6}).as<float>()[2], 9.0f);
  EXPECT_EQ(t.Rows(3, 3).num_elements(), 0);
}

TEST(Tensor, RefusesWhatDoesNotFit) {
  const Tensor t = Tensor::Empty(DType::kBF16, {4, 5});
  EXPECT_THROW(t.Rows(2, 5), Error);
  EXPECT_THROW(t.Rows(-1, 2), Error);
  EXPECT_THROW(t.Reshape({3, 7}), Error);
  EXPECT_THROW(t.WithDType(DType::kF32), Error);
  EXPECT_THROW(Tensor::Empty(DType::kF32, {int64_t{1} << 40, int64_t{1} << 40}), Error);
  EXPECT_THROW(Tensor::FromVector(DType::kF32, {3}, std::vector<float>{1, 2}), Error);
}

TEST(Tensor, OwnerLivesAsLongAsAView) {
  auto owner = std::make_shared<std::vector<float>>(8, 2.5f);
  const std::weak_ptr<std::vector<float>> watch = owner;
  {
    float* data = owner->data();
    const Tensor view = Tensor(DType::kF32, {4, 2}, data, std::move(owner)).Rows(2, 4);
    EXPECT_FALSE(watch.expired());
    EXPECT_EQ(view.as<float>()[3], 2.5f);
  }
  EXPECT_TRUE(watch.expired());
}

TEST(Tensor, MemoryIsAlignedAndZerosAreZero) {
  for (const int64_t n : {1, 63, 64, 65, 1000}) {
    const Tensor t = Tensor::Zeros(DType::kE4M3, {n});
    EXPECT_EQ(reinterpret_cast<uintptr_t>(t.data()) % 64, 0u);
    for (int64_t i = 0; i < n; ++i) ASSERT_EQ(t.as<uint8_t>()[i], 0);
  }
}

}  // namespace
}  // namespace fireq
