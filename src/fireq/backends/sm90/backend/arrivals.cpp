#include "fireq/backends/sm90/backend/arrivals.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "fireq/backends/sm90/runtime/pinned_buffer.h"

namespace fireq::sm90 {

struct Arrivals::Landing {
  PinnedBuffer memory;
  Event copied{Event::Timing::kNone};
};

struct Arrivals::State {
  std::shared_ptr<Stream> stream;
  std::vector<std::unique_ptr<Landing>> free;
  Tensor held;  // what is to be copied and is not queued
  Landing* held_for = nullptr;

  void QueueWith(const std::function<void(const SmallCopy&)>& queue) {
    if (held_for == nullptr) return queue({});
    queue({held.data(), held_for->memory.data(), held.size_bytes()});
    held_for->copied.Record(stream->get());
    Forget();
  }
  void Settle() {
    if (held_for == nullptr) return;
    QueueWith([this](const SmallCopy& copy) { LaunchSmallCopy(copy, {}, stream->get()); });
  }
  void Forget() {
    held_for = nullptr;
    held = {};
  }
};

// A landing in use, by an arrival and by the tensors that it became.
class Arrivals::Loan {
 public:
  Loan(std::shared_ptr<State> state, std::unique_ptr<Landing> landing)
      : state_(std::move(state)), landing_(std::move(landing)) {}
  Loan(const Loan&) = delete;
  Loan& operator=(const Loan&) = delete;
  ~Loan() {
    if (IsHeld()) state_->Forget();  // nobody wants it any more
    static_cast<void>(cudaEventSynchronize(landing_->copied.get()));
    state_->free.push_back(std::move(landing_));
  }
  Landing& landing() const { return *landing_; }
  void Wait() const {
    if (IsHeld()) state_->Settle();
    landing_->copied.Synchronize();
  }

 private:
  bool IsHeld() const { return state_->held_for == landing_.get(); }

  std::shared_ptr<State> state_;
  std::unique_ptr<Landing> landing_;
};

class Arrivals::Copy final : public Arrival {
 public:
  Copy(std::shared_ptr<Loan> loan, const Tensor& from)
      : loan_(std::move(loan)), dtype_(from.dtype()), shape_(from.shape()) {}
  Tensor Wait() override {
    loan_->Wait();
    void* values = loan_->landing().memory.data();
    return {dtype_, shape_, values, std::move(loan_)};
  }

 private:
  std::shared_ptr<Loan> loan_;
  DType dtype_;
  Shape shape_;
};

Arrivals::Arrivals(std::shared_ptr<Stream> stream)
    : state_(std::make_shared<State>(State{.stream = std::move(stream)})) {}

std::unique_ptr<Arrival> Arrivals::Start(const Tensor& from) {
  Settle();
  auto& free = state_->free;
  const auto fits = std::ranges::find_if(free, [&](const std::unique_ptr<Landing>& landing) {
    return landing->memory.size_bytes() >= from.size_bytes();
  });
  std::unique_ptr<Landing> landing;
  if (fits != free.end()) {
    landing = std::move(*fits);
    free.erase(fits);
  } else {
    landing = std::make_unique<Landing>();
    landing->memory = PinnedBuffer(std::max<int64_t>(from.size_bytes(), 1));
  }
  if (from.size_bytes() <= kSmallCopyBytes) {
    state_->held = from;
    state_->held_for = landing.get();
  } else {
    const cudaStream_t stream = state_->stream->get();
    FIREQ_CUDA(cudaMemcpyAsync(landing->memory.data(), from.data(),
                               static_cast<size_t>(from.size_bytes()), cudaMemcpyDeviceToHost,
                               stream));
    landing->copied.Record(stream);
  }
  return std::make_unique<Copy>(std::make_shared<Loan>(state_, std::move(landing)), from);
}

void Arrivals::QueueWith(const Tensor& to, const std::function<void(const SmallCopy&)>& queue) {
  const auto begin = [](const Tensor& t) { return static_cast<const uint8_t*>(t.data()); };
  const Tensor& held = state_->held;
  if (state_->held_for != nullptr && begin(held) < begin(to) + to.size_bytes() &&
      begin(to) < begin(held) + held.size_bytes())
    Settle();
  state_->QueueWith(queue);
}

void Arrivals::Settle() { state_->Settle(); }

}  // namespace fireq::sm90
