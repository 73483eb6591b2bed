#include "fireq/ops/backend.h"

#include <unistd.h>

#include <chrono>
#include <utility>

#include "fireq/ops/random_weights.h"

namespace fireq {
namespace {

class HostTimePoint final : public TimePoint {
 public:
  double MicrosecondsSince(const TimePoint& start) const override {
    const auto& from = dynamic_cast<const HostTimePoint&>(start);
    return std::chrono::duration<double, std::micro>(time_ - from.time_).count();
  }

 private:
  std::chrono::steady_clock::time_point time_ = std::chrono::steady_clock::now();
};

class Arrived final : public Arrival {
 public:
  explicit Arrived(Tensor tensor) : tensor_(std::move(tensor)) {}
  Tensor Wait() override { return std::move(tensor_); }

 private:
  Tensor tensor_;
};

class KeptBody final : public Recording {
 public:
  explicit KeptBody(std::function<void()> body) : body_(std::move(body)) {}
  void Run() override { body_(); }

 private:
  std::function<void()> body_;
};

}  // namespace

std::shared_ptr<const PreparedLinear> Backend::PrepareRandom(const RandomLinearSpec& spec) {
  return Prepare(MakeRandomLinear(spec));
}

Tensor Backend::RandomBf16(Shape shape, float spread, uint64_t seed) {
  return Upload(MakeRandomBf16(std::move(shape), spread, seed));
}

int64_t Backend::FreeBytes() {
  return static_cast<int64_t>(sysconf(_SC_AVPHYS_PAGES)) * sysconf(_SC_PAGESIZE);
}

int64_t Backend::Reserve(const StepLimits&) { return 0; }

DType Backend::LogitType(const PreparedLinear&) const { return DType::kF32; }

std::unique_ptr<Arrival> Backend::StartDownload(const Tensor& tensor) {
  return std::make_unique<Arrived>(Download(tensor));
}

std::unique_ptr<TimePoint> Backend::Mark() { return std::make_unique<HostTimePoint>(); }

std::unique_ptr<Recording> Backend::Record(std::function<void()> body) {
  return std::make_unique<KeptBody>(std::move(body));
}

}  // namespace fireq
