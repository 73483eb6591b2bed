#include "fireq/backends/sm90/backend/arrivals.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "fireq/backends/sm90/small_copy/launch.h"

namespace fireq::sm90 {

class Arrivals::Copy final : public Arrival {
 public:
  Copy(std::shared_ptr<Free> free, std::unique_ptr<Landing> landing, const Tensor& from)
      : free_(std::move(free)),
        landing_(std::move(landing)),
        dtype_(from.dtype()),
        shape_(from.shape()) {}
  Copy(const Copy&) = delete;
  Copy& operator=(const Copy&) = delete;
  ~Copy() override {
    static_cast<void>(cudaEventSynchronize(landing_->copied.get()));
    free_->push_back(std::move(landing_));
  }
  Tensor Wait() override {
    landing_->copied.Synchronize();
    Tensor out = Tensor::Empty(dtype_, shape_);
    std::memcpy(out.data(), landing_->memory.data(), static_cast<size_t>(out.size_bytes()));
    return out;
  }

 private:
  std::shared_ptr<Free> free_;
  std::unique_ptr<Landing> landing_;
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
  return std::make_unique<Copy>(free_, std::move(landing), from);
}

}  // namespace fireq::sm90
