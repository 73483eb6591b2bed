#include "fireq/backends/sm90/backend/nccl_ranks.h"

#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <numeric>
#include <string>

#include "fireq/backends/sm90/backend/peer_boxes.h"
#include "fireq/backends/sm90/backend/stream_owner.h"
#include "fireq/backends/sm90/token_rows/launch.h"
#include "fireq/base/error.h"

namespace fireq {
namespace sm90 {
namespace {

// What is used of NCCL's C interface (nccl.h of version 2).
using NcclComm = struct NcclCommOpaque*;
constexpr int kNcclSuccess = 0, kNcclSum = 0, kNcclF32 = 7, kNcclBf16 = 9;

class NcclLibrary {
 public:
  NcclLibrary() : handle_(dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL)) {
    FIREQ_CHECK(handle_ != nullptr, kUnsupported, "several GPUs need NCCL: ", dlerror());
    Find("ncclCommInitAll", init_all);
    Find("ncclAllReduce", all_reduce);
    Find("ncclAllGather", all_gather);
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
  int (*all_gather)(const void* from, void* to, size_t count, int type, NcclComm comm,
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

// Two connections could each have had the turn before on one GPU and wait for the other's on the
// next, for ever. They all begin with cuda:0.
std::shared_ptr<NcclGroup> MakeOnlyGroup() {
  static std::mutex mutex;
  static std::weak_ptr<NcclGroup> made;
  const std::scoped_lock lock(mutex);
  FIREQ_CHECK(made.expired(), kUnsupported,
              "the GPUs from cuda:0 on are connected already, and one connection may be at a time");
  auto group = std::make_shared<NcclGroup>();
  made = group;
  return group;
}

// Outputs of a linear that the ranks share: each rank's are a multiple of so many, as the columns
// that are joined, and all of them no more than that: of more rows every rank makes all.
constexpr int64_t kSharedWidth = 8;
constexpr int64_t kMostSharedBytes = int64_t{64} << 20;

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
    // Else a turn of the boxes in which no rank waits for another.
    if (values.num_elements() == 0) return;
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
    const HeldTurn turn = backend_.Settle();
    const NcclComm comm = group_->comms[static_cast<size_t>(share_.rank)];
    const auto count = static_cast<size_t>(values.num_elements());
    Nccl().Check(
        Nccl().all_reduce(values.data(), values.data(), count, kNcclBf16, kNcclSum, comm, stream),
        "ncclAllReduce");
  }
  void AddLinear(Backend& backend, LinearArgs linear) override {
    const Tensor x = linear.y;
    if (linear.reduction == Reduction::kBatchInvariant && !SumsInOneOrder(x)) {
      AddProduct(backend, std::move(linear));
      return SumByRows(x);
    }
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
    // The GEMM may still be reading where its own codes are.
    const auto sum_and_norm = [group = group_, x, parts, rank = share_.rank,
                               stream = backend_.stream().get(),
                               read = linear.x.values.data()](const CodesToMake& codes) {
      return codes.out.values.data() != read &&
             group->boxes->AddToOwnersAndNorm(rank, x, parts, codes, stream);
    };
    backend_.Await({x.data(), sum, sum_and_norm});
  }
  int64_t Reserve(Backend& backend, const StepLimits& limits) override {
    const PreparedLinear& w = *limits.lm_head;
    if (w.quantized() || !IsShared(w.n())) return 0;
    const int64_t bytes = std::min(
        kMostSharedBytes, limits.max_logit_rows * w.n() * static_cast<int64_t>(sizeof(float)));
    if (!parts_.defined() || parts_.size_bytes() < bytes)
      parts_ = backend.Allocate(DType::kF32, {bytes / static_cast<int64_t>(sizeof(float))});
    return parts_.size_bytes();
  }
  // Each rank makes its share of the outputs.
  void Linear(Backend& backend, const LinearArgs& linear) override {
    const bool shared = linear.largest.defined() ? ShareLargest(linear) : ShareLogits(linear);
    if (!shared) Ranks::Linear(backend, linear);
  }
  void Complete(const Tensor& x) override {
    if (!HasOwners(x)) return;
    Check();
    const HeldTurn turn = backend_.Settle();
    group_->boxes->AddToOwners(share_.rank, x, PartsAt::kNowhere, backend_.stream().get());
  }

 private:
  // Whether a row's bits do not depend on how many rows there are: NCCL adds three parts and more
  // in an order of its own, and rounds in between.
  bool SumsInOneOrder(const Tensor& x) const {
    return share_.size == 2 || (group_->boxes && group_->boxes->Takes(x.size_bytes()));
  }
  // Through the boxes, as many rows at a time as they take.
  void SumByRows(const Tensor& x) {
    Check();
    const int64_t rows = group_->boxes ? group_->boxes->MaxRows(x) : 0;
    FIREQ_CHECK(rows > 0, kUnsupported, "batch-invariant sums over ", share_.size,
                " GPUs, which need each other's memory");
    const HeldTurn turn = backend_.Settle();
    for (int64_t begin = 0; begin < x.dim(0); begin += rows)
      group_->boxes->Sum(share_.rank, x.Rows(begin, std::min(begin + rows, x.dim(0))),
                         backend_.stream().get());
  }
  bool HasOwners(const Tensor& x) const { return group_->boxes && group_->boxes->HasOwners(x); }
  bool IsShared(int64_t outputs) const { return outputs % (share_.size * kSharedWidth) == 0; }
  // Whether the outputs were made so: by parts that all ranks gather.
  bool ShareLogits(const LinearArgs& linear) {
    const int64_t rows = linear.y.dim(0), width = linear.y.dim(1) / share_.size;
    if (rows == 0 || !IsShared(linear.y.dim(1)) || !parts_.defined() ||
        parts_.num_elements() < linear.y.num_elements())
      return false;
    Check();
    const Tensor parts = parts_.Rows(0, linear.y.num_elements());
    const int64_t part = rows * width;
    const Tensor own =
        parts.Rows(part * share_.rank, part * (share_.rank + 1)).Reshape({rows, width});
    if (!backend_.PartOfLinear(linear, width * share_.rank, own)) return false;
    const HeldTurn turn = backend_.Settle();
    const cudaStream_t stream = backend_.stream().get();
    Nccl().Check(Nccl().all_gather(own.data(), parts.data(), static_cast<size_t>(part), kNcclF32,
                                   group_->comms[static_cast<size_t>(share_.rank)], stream),
                 "ncclAllGather");
    LaunchJoinColumns(parts.as<float>(), share_.size, rows, width, linear.y.as<float>(), stream);
    return true;
  }
  // Whether the largest outputs were found so: the ranks tell each other theirs.
  bool ShareLargest(const LinearArgs& linear) {
    if (linear.y.defined() || !IsShared(linear.w->n()) || !group_->boxes ||
        !group_->boxes->Takes(linear.largest.dim(0) * kPeerVectorBytes))
      return false;
    Check();
    return backend_.LargestOfRanks(linear, group_->boxes->End(share_.rank));
  }

  std::shared_ptr<NcclGroup> group_;
  StreamOwner& backend_;
  Share share_;
  Tensor parts_;  // F32: all ranks' parts of a linear's outputs, one behind the other
};

}  // namespace
}  // namespace sm90

std::vector<std::shared_ptr<Ranks>> MakeNcclRanks(std::span<Backend* const> backends) {
  const int size = static_cast<int>(backends.size());
  std::vector<int> devices(backends.size());
  std::iota(devices.begin(), devices.end(), 0);
  const sm90::NcclLibrary& nccl = sm90::Nccl();
  const auto group = sm90::MakeOnlyGroup();
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
