#include "fireq/backends/sm90/backend/nccl_ranks.h"

#include <dlfcn.h>

#include <numeric>
#include <string>

#include "fireq/backends/sm90/backend/stream_owner.h"
#include "fireq/base/error.h"

namespace fireq {
namespace sm90 {
namespace {

// What is used of NCCL's C interface (nccl.h of version 2).
using NcclComm = struct NcclCommOpaque*;
constexpr int kNcclSuccess = 0, kNcclSum = 0, kNcclBf16 = 9;

class NcclLibrary {
 public:
  NcclLibrary() : handle_(dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL)) {
    FIREQ_CHECK(handle_ != nullptr, kUnsupported, "several GPUs need NCCL: ", dlerror());
    Find("ncclCommInitAll", init_all);
    Find("ncclAllReduce", all_reduce);
    Find("ncclCommDestroy", destroy);
    Find("ncclGetErrorString", error_string);
  }
  void Check(int status, const char* what) const {
    FIREQ_CHECK(status == kNcclSuccess, kCuda, what, ": ", error_string(status));
  }

  int (*init_all)(NcclComm* comms, int count, const int* devices) = nullptr;
  int (*all_reduce)(const void* from, void* to, size_t count, int type, int op, NcclComm comm,
                    cudaStream_t stream) = nullptr;
  int (*destroy)(NcclComm comm) = nullptr;
  const char* (*error_string)(int status) = nullptr;

 private:
  template <class Function>
  void Find(const char* name, Function& function) {
    function = reinterpret_cast<Function>(dlsym(handle_, name));
    FIREQ_CHECK(function != nullptr, kUnsupported, "libnccl.so.2 has no ", name);
  }

  void* handle_;  // stays open: NCCL has threads of its own
};

const NcclLibrary& Nccl() {
  static const NcclLibrary library;
  return library;
}

class NcclRank final : public Ranks {
 public:
  NcclRank(NcclComm comm, const Stream& stream, Share share)
      : comm_(comm), stream_(stream), share_(share) {}
  ~NcclRank() override { static_cast<void>(Nccl().destroy(comm_)); }
  NcclRank(const NcclRank&) = delete;
  NcclRank& operator=(const NcclRank&) = delete;

  Share share() const override { return share_; }
  void Sum(const Tensor& values) override {
    FIREQ_CHECK(values.dtype() == DType::kBF16, kUnsupported, "a sum of ", Name(values.dtype()),
                " over GPUs");
    Nccl().Check(
        Nccl().all_reduce(values.data(), values.data(), static_cast<size_t>(values.num_elements()),
                          kNcclBf16, kNcclSum, comm_, stream_.get()),
        "ncclAllReduce");
  }

 private:
  NcclComm comm_;
  const Stream& stream_;
  Share share_;
};

}  // namespace
}  // namespace sm90

std::vector<std::shared_ptr<Ranks>> MakeNcclRanks(std::span<Backend* const> backends) {
  const int size = static_cast<int>(backends.size());
  std::vector<int> devices(backends.size());
  std::iota(devices.begin(), devices.end(), 0);
  std::vector<sm90::NcclComm> comms(backends.size());
  sm90::Nccl().Check(sm90::Nccl().init_all(comms.data(), size, devices.data()), "ncclCommInitAll");
  std::vector<std::shared_ptr<Ranks>> ranks;
  for (int r = 0; r < size; ++r) {
    const auto& owner = dynamic_cast<const sm90::StreamOwner&>(*backends[static_cast<size_t>(r)]);
    ranks.push_back(std::make_shared<sm90::NcclRank>(comms[static_cast<size_t>(r)], owner.stream(),
                                                     Share{r, size}));
  }
  return ranks;
}

}  // namespace fireq
