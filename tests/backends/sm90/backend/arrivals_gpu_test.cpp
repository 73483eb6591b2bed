// Downloads that nobody waits for: a small one is queued with the upload behind it, and has what
// was there when it was asked for, whatever comes first.
#include <gtest/gtest.h>

#include <numeric>
#include <vector>

#include "fireq/backends/sm90/backend/sm90_backend.h"
#include "tests/backends/sm90/needs_hopper.h"

namespace fireq {
namespace {

class Arrivals : public testing::Test {
 protected:
  static constexpr int64_t kCount = 101;  // not of whole vectors

  void SetUp() override {
    FIREQ_NEEDS_HOPPER();
    gpu_ = MakeSm90Backend();
    x_ = gpu_->Upload(Values(0));
    other_ = gpu_->Upload(Values(1000));
  }
  static Tensor Values(int32_t first, int64_t count = kCount) {
    std::vector<int32_t> values(static_cast<size_t>(count));
    std::iota(values.begin(), values.end(), first);
    return Tensor::FromVector(DType::kI32, {count}, values);
  }
  static void ExpectFrom(int32_t first, const Tensor& host) {
    for (int64_t i = 0; i < host.num_elements(); ++i)
      ASSERT_EQ(host.as<int32_t>()[i], first + i) << "value " << i;
  }

  std::unique_ptr<Backend> gpu_;
  Tensor x_, other_;
};

TEST_F(Arrivals, NothingBehind) {
  const auto arrival = gpu_->StartDownload(x_);
  ExpectFrom(0, arrival->Wait());
}

TEST_F(Arrivals, WithAnUpload) {
  // Fewer bytes than the download, more, and more than a small copy.
  for (const int64_t count : {int64_t{3}, kCount, int64_t{5000}, int64_t{30000}, int64_t{500000}}) {
    const Tensor to = gpu_->Upload(Values(7, count));
    const auto arrival = gpu_->StartDownload(x_);
    gpu_->UploadTo(Values(9, count), to);
    ExpectFrom(0, arrival->Wait());
    ExpectFrom(9, gpu_->Download(to));
  }
}

TEST_F(Arrivals, OfWhatIsWrittenNext) {
  auto arrival = gpu_->StartDownload(x_);
  gpu_->UploadTo(Values(2000, 50), x_.Rows(40, 90));
  ExpectFrom(0, arrival->Wait());
  ExpectFrom(2000, gpu_->Download(x_.Rows(40, 90)));

  arrival = gpu_->StartDownload(other_);
  gpu_->Copy(x_, other_);
  ExpectFrom(1000, arrival->Wait());

  gpu_->UploadTo(Values(0), x_);
  gpu_->UploadTo(Values(1000), other_);
  const auto recording = gpu_->Record([&] { gpu_->Copy(other_, x_); });
  arrival = gpu_->StartDownload(x_);
  recording->Run();
  ExpectFrom(0, arrival->Wait());
  ExpectFrom(1000, gpu_->Download(x_));
}

TEST_F(Arrivals, OfMemoryThatIsGivenBack) {
  auto arrival = gpu_->StartDownload(x_);
  x_ = {};
  const Tensor next = gpu_->Upload(Values(3000));
  ExpectFrom(0, arrival->Wait());
  ExpectFrom(3000, gpu_->Download(next));
}

TEST_F(Arrivals, SeveralAtATimeAndNone) {
  auto first = gpu_->StartDownload(x_);
  auto second = gpu_->StartDownload(other_);
  ExpectFrom(1000, second->Wait());
  ExpectFrom(0, first->Wait());
  first = gpu_->StartDownload(x_);
  first.reset();  // nobody waits
  gpu_->UploadTo(Values(4000), x_);
  second = gpu_->StartDownload(x_);
  ExpectFrom(4000, second->Wait());
}

TEST_F(Arrivals, OutliveTheBackend) {
  auto arrival = gpu_->StartDownload(x_);
  gpu_.reset();
  ExpectFrom(0, arrival->Wait());
}

}  // namespace
}  // namespace fireq
