#include "fireq/backends/cpu/thread_ranks.h"

#include <condition_variable>
#include <cstring>
#include <mutex>

#include "fireq/base/error.h"
#include "fireq/formats/bf16.h"

namespace fireq {
namespace {

float ValueAt(const Tensor& tensor, int64_t i) {
  return tensor.dtype() == DType::kBF16 ? Bf16ToFloat(tensor.as<bf16_t>()[i])
                                        : tensor.as<float>()[i];
}

// A barrier that one who fails takes down.
class Meeting {
 public:
  explicit Meeting(int size) : values(static_cast<size_t>(size)), size_(size) {}

  void Arrive() {
    std::unique_lock lock(mutex_);
    const int64_t round = round_;
    if (++arrived_ == size_) {
      arrived_ = 0;
      ++round_;
      changed_.notify_all();
    }
    changed_.wait(lock, [&] { return failed_ || round_ != round; });
    ThrowIfFailed();
  }
  void Fail() {
    const std::lock_guard lock(mutex_);
    failed_ = true;
    changed_.notify_all();
  }
  void Check() {
    const std::lock_guard lock(mutex_);
    ThrowIfFailed();
  }

  std::vector<Tensor> values;  // of each rank, written before and read after an arrival

 private:
  void ThrowIfFailed() const { FIREQ_CHECK(!failed_, kCancelled, "another rank has failed"); }

  std::mutex mutex_;
  std::condition_variable changed_;
  const int size_;
  int arrived_ = 0;
  int64_t round_ = 0;
  bool failed_ = false;
};

class ThreadRank final : public Ranks {
 public:
  ThreadRank(std::shared_ptr<Meeting> meeting, Share share)
      : meeting_(std::move(meeting)), share_(share) {}

  Share share() const override { return share_; }
  void Fail() override { meeting_->Fail(); }
  void Check() const override { meeting_->Check(); }

  void Sum(const Tensor& values) override {
    FIREQ_CHECK(values.dtype() == DType::kBF16 || values.dtype() == DType::kF32, kUnsupported,
                "a sum of ", Name(values.dtype()), " over ranks");
    std::vector<Tensor>& all = meeting_->values;
    all[static_cast<size_t>(share_.rank)] = values;
    meeting_->Arrive();
    const Tensor sum = Tensor::Empty(values.dtype(), values.shape());
    for (int64_t i = 0; i < values.num_elements(); ++i) {
      float total = 0.0f;
      for (const Tensor& part : all) total += ValueAt(part, i);
      if (values.dtype() == DType::kBF16) {
        sum.as<bf16_t>()[i] = FloatToBf16(total);
      } else {
        sum.as<float>()[i] = total;
      }
    }
    meeting_->Arrive();  // all have read
    std::memcpy(values.data(), sum.data(), static_cast<size_t>(values.size_bytes()));
  }

 private:
  std::shared_ptr<Meeting> meeting_;
  Share share_;
};

}  // namespace

std::vector<std::shared_ptr<Ranks>> MakeThreadRanks(int size) {
  FIREQ_CHECK(size > 0, kInvalidArgument, size, " ranks");
  const auto meeting = std::make_shared<Meeting>(size);
  std::vector<std::shared_ptr<Ranks>> ranks;
  ranks.reserve(static_cast<size_t>(size));
  for (int r = 0; r < size; ++r)
    ranks.push_back(std::make_shared<ThreadRank>(meeting, Share{r, size}));
  return ranks;
}

}  // namespace fireq
