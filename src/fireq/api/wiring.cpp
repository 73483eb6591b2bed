#include "fireq/api/wiring.h"

#include <algorithm>
#include <charconv>
#include <thread>

#include "fireq/backends/cpu/cpu_backend.h"
#include "fireq/backends/cpu/thread_ranks.h"
#include "fireq/checkpoint/model_source.h"
#ifdef FIREQ_WITH_SM90
#include "fireq/backends/sm90/backend/nccl_ranks.h"
#include "fireq/backends/sm90/backend/sm90_backend.h"
#include "fireq/backends/sm90/f32/f32_backend.h"
#include "fireq/backends/sm90/fit/sm90_fitter.h"
#endif

namespace fireq {
namespace {

std::unique_ptr<Backend> MakeCuda([[maybe_unused]] int device) {
#ifdef FIREQ_WITH_SM90
  return MakeSm90Backend(device);
#else
  Throw(ErrorCode::kUnsupported,
        "this build has no CUDA backend: configure with the preset 'hopper' (needs nvcc)");
#endif
}

bool HasCuda() {
#ifdef FIREQ_WITH_SM90
  return HasSm90();
#else
  return false;
#endif
}

// A slow run on the CPU should not surprise whoever has a GPU.
void SayIfDriverIsOld([[maybe_unused]] const RuntimeOptions& options) {
#ifdef FIREQ_WITH_SM90
  if (options.device != "auto" || !options.say) return;
  if (const std::string old = WhyOldDriver(); !old.empty())
    options.say("Running on the CPU: " + old);
#endif
}

// Of "cuda" or "cuda:N". Throws kInvalidArgument naming the device and the choices.
int CudaIndex(const std::string& device) {
  if (device == "cuda") return 0;
  int index = -1;
  if (device.starts_with("cuda:")) {
    const char* end = device.data() + device.size();
    const auto parsed = std::from_chars(device.data() + 5, end, index);
    if (parsed.ptr != end) index = -1;
  }
  FIREQ_CHECK(index >= 0, kInvalidArgument, "device \"", device,
              "\": expected auto, cpu, cuda or cuda:N");
  return index;
}

bool IsCpu(const RuntimeOptions& options) {
  return options.device == "cpu" || (options.device == "auto" && !HasCuda());
}

}  // namespace

std::vector<std::shared_ptr<Ranks>> Connect([[maybe_unused]] const RuntimeOptions& options,
                                            std::span<Backend* const> backends) {
#ifdef FIREQ_WITH_SM90
  if (!IsCpu(options)) return MakeNcclRanks(backends);
#endif
  return MakeThreadRanks(static_cast<int>(backends.size()));
}

std::unique_ptr<Backend> MakeRankBackend(const RuntimeOptions& options, Share share) {
  FIREQ_CHECK(options.device == "auto" || options.device == "cpu" || options.device == "cuda",
              kInvalidArgument, "device \"", options.device, "\": ", share.size,
              " ranks take auto, cpu or cuda, and the GPUs from number 0 on");
  if (!IsCpu(options)) return MakeCuda(share.rank);
  const int threads = options.num_threads > 0
                          ? options.num_threads
                          : static_cast<int>(std::thread::hardware_concurrency());
  return MakeCpuBackend({.num_threads = std::max(1, threads / share.size)});
}

std::unique_ptr<Backend> MakeFloatBackend(const RuntimeOptions& options) {
  return MakeCpuBackend({.num_threads = options.num_threads});
}

std::unique_ptr<Backend> MakeBackend(const RuntimeOptions& options,
                                     const std::filesystem::path& model) {
  if (DetectModelKind(model) == ModelKind::kFireqQuantised) return MakeBackend(options);
  if (options.device == "auto" || options.device == "cpu") return MakeFloatBackend(options);
#ifdef FIREQ_WITH_SM90
  return MakeSm90FloatBackend(CudaIndex(options.device));
#else
  return MakeCuda(CudaIndex(options.device));
#endif
}

std::unique_ptr<Backend> MakeBackend(const RuntimeOptions& options) {
  SayIfDriverIsOld(options);
  const std::string& device = options.device;
  if (device == "cpu") return MakeFloatBackend(options);
  if (device == "auto") return HasCuda() ? MakeCuda(0) : MakeFloatBackend(options);
  return MakeCuda(CudaIndex(device));
}

Quantiser MakeQuantiser(const RuntimeOptions& options) {
  SayIfDriverIsOld(options);
  if (IsCpu(options)) return {MakeFloatBackend(options), nullptr};
  const int device = options.device == "auto" ? 0 : CudaIndex(options.device);
#ifdef FIREQ_WITH_SM90
  Quantiser out{MakeSm90FloatBackend(device), nullptr};
  out.fitter = MakeSm90Fitter(*out.backend);
  return out;
#else
  return {MakeCuda(device), nullptr};
#endif
}

}  // namespace fireq
