#include "fireq/backends/sm90/backend/peer_boxes.h"

#include "fireq/backends/sm90/runtime/check.h"

namespace fireq::sm90 {
namespace {

// The calling thread's device, put back at the end.
class CurrentDevice {
 public:
  CurrentDevice() { FIREQ_CUDA(cudaGetDevice(&before_)); }
  CurrentDevice(const CurrentDevice&) = delete;
  CurrentDevice& operator=(const CurrentDevice&) = delete;
  ~CurrentDevice() { static_cast<void>(cudaSetDevice(before_)); }

 private:
  int before_ = 0;
};

bool AllReachAll(int ranks) {
  for (int from = 0; from < ranks; ++from)
    for (int to = 0; to < ranks; ++to) {
      int reaches = from == to ? 1 : 0;
      if (from != to) FIREQ_CUDA(cudaDeviceCanAccessPeer(&reaches, from, to));
      if (reaches == 0) return false;
    }
  return true;
}

// Opens the memory of the other ranks to the current device.
void OpenPeers(int rank, int ranks) {
  for (int peer = 0; peer < ranks; ++peer) {
    if (peer == rank) continue;
    const cudaError_t status = cudaDeviceEnablePeerAccess(peer, 0);
    if (status == cudaErrorPeerAccessAlreadyEnabled) {
      static_cast<void>(cudaGetLastError());
    } else {
      CheckCuda(status, "cudaDeviceEnablePeerAccess");
    }
  }
}

}  // namespace

std::unique_ptr<PeerBoxes> PeerBoxes::Make(int ranks) {
  if (ranks > kMaxPeerRanks || !AllReachAll(ranks)) return nullptr;
  return std::unique_ptr<PeerBoxes>(new PeerBoxes(ranks));
}

PeerBoxes::PeerBoxes(int ranks) : layout_(MakePeerBoxLayout(ranks)) {
  const CurrentDevice restore;
  *static_cast<uint32_t*>(stop_.data()) = 0;
  for (int rank = 0; rank < ranks; ++rank) {
    FIREQ_CUDA(cudaSetDevice(rank));
    OpenPeers(rank, ranks);
    boxes_.emplace_back(layout_.size_bytes()).FillBytes(kEmptyBoxByte);
    calls_.emplace_back(kPeerSumCtas).FillBytes(0);
    FIREQ_CUDA(cudaDeviceSynchronize());
  }
}

PeerSumParams PeerBoxes::Params(int rank, const Tensor& values) const {
  PeerSumParams params;
  params.values = static_cast<uint4*>(values.data());
  params.vectors = values.size_bytes() / kPeerVectorBytes;
  params.layout = layout_;
  for (size_t r = 0; r < boxes_.size(); ++r) params.boxes[r] = boxes_[r].data();
  params.calls = calls_[static_cast<size_t>(rank)].data();
  params.stop = static_cast<const uint32_t*>(stop_.data());
  params.rank = rank;
  return params;
}

void PeerBoxes::Sum(int rank, const Tensor& values, cudaStream_t stream) const {
  LaunchPeerSum(Params(rank, values), stream);
}

bool PeerBoxes::SumAndNorm(int rank, const Tensor& values, const CodesToMake& codes,
                           cudaStream_t stream) const {
  const int64_t rows = codes.x.dim(0), k = codes.x.dim(1);
  // One row's codes are made by the GEMM that reads them (AwaitedCodes).
  if (rows < 2 || k > kMaxPeerSumNormK || k % 64 != 0 || !codes.norm.defined()) return false;
  PeerSumNormParams launch;
  launch.sum = Params(rank, values);
  launch.weight = codes.norm.as<float>();
  launch.eps = codes.eps;
  launch.rows = rows;
  launch.k = k;
  launch.ranks_with_sums = 1;  // the first one adds its next product to them (ops/ranks.h)
  launch.out = {codes.out.values.as<uint8_t>(), codes.out.scale.as<float>(),
                codes.out.sums.as<float>()};
  LaunchPeerSumNorm(launch, stream);
  return true;
}

void PeerBoxes::Stop() { *static_cast<volatile uint32_t*>(stop_.data()) = 1; }

}  // namespace fireq::sm90
