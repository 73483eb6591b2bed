#include "fireq/backends/sm90/backend/nccl_ranks.h"

#include <dlfcn.h>

#include <atomic>
#include <numeric>
#include <string>

#include "fireq/backends/sm90/backend/peer_boxes.h"
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
    Find("ncclCommAbort", abort);
    Find("ncclGetErrorString", error_string);
  }
  void Check(int status, const char* what) const {
    FIREQ_CHECK(status == kNcclSuccess, kCuda, what, ": ", error_string(status));
  }

  int (*init_all)(NcclComm* comms, int count, const int* devices) = nullptr;
  int (*all_reduce)(const void* from, void* to, size_t count, int type, int op, NcclComm comm,
                    cudaStream_t stream) = nullptr;
  int (*destroy)(NcclComm comm) = nullptr;
  int (*abort)(NcclComm comm) = nullptr;
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

// All ends of a connection.
struct NcclGroup {
  std::vector<NcclComm> comms;
  std::unique_ptr<PeerBoxes> boxes;  // null where the GPUs do not see each other's memory
  std::atomic<bool> failed = false;  // and the ends are gone
  ~NcclGroup() {
    if (failed) return;
    for (const NcclComm comm : comms) static_cast<void>(Nccl().destroy(comm));
  }
};

class NcclRank final : public Ranks {
 public:
  NcclRank(std::shared_ptr<NcclGroup> group, StreamOwner& backend, Share share)
      : group_(std::move(group)), backend_(backend), share_(share) {}

  Share share() const override { return share_; }
  void Fail() override {
    if (group_->failed.exchange(true)) return;
    if (group_->boxes) group_->boxes->Stop();
    for (const NcclComm comm : group_->comms) static_cast<void>(Nccl().abort(comm));
  }
  void Check() const override {
    FIREQ_CHECK(!group_->failed, kCancelled, "another rank has failed");
  }
  void Sum(const Tensor& values) override {
    FIREQ_CHECK(values.dtype() == DType::kBF16, kUnsupported, "a sum of ", Name(values.dtype()),
                " over GPUs");
    Check();
    const cudaStream_t stream = backend_.stream().get();
    if (group_->boxes && group_->boxes->Takes(values.size_bytes())) {
      const auto sum = [group = group_, values, rank = share_.rank, stream] {
        group->boxes->Sum(rank, values, stream);
      };
      const auto sum_and_norm = [group = group_, values, rank = share_.rank,
                                 stream](const CodesToMake& codes) {
        return codes.x.size_bytes() == values.size_bytes() &&
               group->boxes->SumAndNorm(rank, values, codes, stream);
      };
      return backend_.Await({values.data(), sum, sum_and_norm});
    }
    backend_.Settle();
    const NcclComm comm = group_->comms[static_cast<size_t>(share_.rank)];
    const auto count = static_cast<size_t>(values.num_elements());
    Nccl().Check(
        Nccl().all_reduce(values.data(), values.data(), count, kNcclBf16, kNcclSum, comm, stream),
        "ncclAllReduce");
  }
  void AddLinear(Backend& backend, LinearArgs linear) override {
    const Tensor x = linear.y;
    if (!HasOwners(x)) return Ranks::AddLinear(backend, std::move(linear));
    Check();
    PartsAt parts = PartsAt::kBoxes;
    if (!backend_.SendLinear(linear, group_->boxes->End(share_.rank))) {
      parts = PartsAt::kMemory;
      linear.epilogue = Epilogue::kNone;
      linear.residual = {};
      linear.y = group_->boxes->PartsOf(share_.rank, x.shape());
      backend.Linear(linear);
    }
    const auto sum = [group = group_, x, parts, rank = share_.rank,
                      stream = backend_.stream().get()] {
      group->boxes->AddToOwners(rank, x, parts, stream);
    };
    const auto sum_and_norm = [group = group_, x, parts, rank = share_.rank,
                               stream = backend_.stream().get()](const CodesToMake& codes) {
      return group->boxes->AddToOwnersAndNorm(rank, x, parts, codes, stream);
    };
    backend_.Await({x.data(), sum, sum_and_norm});
  }
  void Complete(const Tensor& x) override {
    if (!HasOwners(x)) return;
    Check();
    backend_.Settle();
    group_->boxes->AddToOwners(share_.rank, x, PartsAt::kNowhere, backend_.stream().get());
  }

 private:
  bool HasOwners(const Tensor& x) const { return group_->boxes && group_->boxes->HasOwners(x); }

  std::shared_ptr<NcclGroup> group_;
  StreamOwner& backend_;
  Share share_;
};

}  // namespace
}  // namespace sm90

std::vector<std::shared_ptr<Ranks>> MakeNcclRanks(std::span<Backend* const> backends) {
  const int size = static_cast<int>(backends.size());
  std::vector<int> devices(backends.size());
  std::iota(devices.begin(), devices.end(), 0);
  const sm90::NcclLibrary& nccl = sm90::Nccl();
  const auto group = std::make_shared<sm90::NcclGroup>();
  std::vector<sm90::NcclComm> comms(backends.size());
  nccl.Check(nccl.init_all(comms.data(), size, devices.data()), "ncclCommInitAll");
  group->comms = std::move(comms);
  group->boxes = sm90::PeerBoxes::Make(size);
  std::vector<std::shared_ptr<Ranks>> ranks;
  for (int r = 0; r < size; ++r) {
    auto& owner = dynamic_cast<sm90::StreamOwner&>(*backends[static_cast<size_t>(r)]);
    ranks.push_back(std::make_shared<sm90::NcclRank>(group, owner, Share{r, size}));
  }
  return ranks;
}

}  // namespace fireq
