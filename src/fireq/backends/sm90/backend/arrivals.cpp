#include "fireq/backends/sm90/backend/arrivals.h"

#include <algorithm>
#include <utility>

#include "fireq/backends/sm90/small_copy/launch.h"

namespace fireq::sm90 {

// A landing in use, by an arrival and by the tensors that it became.
class Arrivals::Loan {
 public:
  Loan(std::shared_ptr<Free> free, std::unique_ptr<Landing> landing)
      : free_(std::move(free)), landing_(std::move(landing)) {}
  Loan(const Loan&) = delete;
  Loan& operator=(const Loan&) = delete;
  ~Loan() {
    static_cast<void>(cudaEventSynchronize(landing_->copied.get()));
    free_->push_back(std::move(landing_));
  }
  Landing& landing() const { return *landing_; }

 private:
  std::shared_ptr<Free> free_;
  std::unique_ptr<Landing> landing_;
};

class Arrivals::Copy final : public Arrival {
 public:
  Copy(std::shared_ptr<Loan> loan, const Tensor& from)
      : loan_(std::move(loan)), dtype_(from.dtype()), shape_(from.shape()) {}
  Tensor Wait() override {
    loan_->landing().copied.Synchronize();
    void* values = loan_->landing().memory.data();
    return {dtype_, shape_, values, std::move(loan_)};
  }

 private:
  std::shared_ptr<Loan> loan_;
  DType dtype_;
  Shape shape_;
};

std::unique_ptr<Arrival> Arrivals::Start(const Tensor& from, cudaStream_t stream) {
  const auto fits = std::ranges::find_if(*free_, [&](const std::unique_ptr<Landing>& landing) {
    return landing->memory.size_bytes() >= from.size_bytes();
  });
  std::unique_ptr<Landing> landing;
  if (fits != free_->end()) {
    landing = std::move(*fits);
    free_->erase(fits);
  } else {
    landing = std::make_unique<Landing>();
    landing->memory = PinnedBuffer(std::max<int64_t>(from.size_bytes(), 1));
  }
  if (from.size_bytes() <= kSmallCopyBytes) {
    LaunchSmallCopy(from.data(), landing->memory.data(), from.size_bytes(), stream);
  } else {
    FIREQ_CUDA(cudaMemcpyAsync(landing->memory.data(), from.data(),
                               static_cast<size_t>(from.size_bytes()), cudaMemcpyDeviceToHost,
                               stream));
  }
  landing->copied.Record(stream);
  return std::make_unique<Copy>(std::make_shared<Loan>(free_, std::move(landing)), from);
}

}  // namespace fireq::sm90
