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

NormOfSums NormOf(const CodesToMake& codes) {
  return {
      codes.norm.as<float>(),
      codes.eps,
      {codes.out.values.as<uint8_t>(), codes.out.scale.as<float>(), codes.out.sums.as<float>()}};
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
    parts_.emplace_back(layout_.slot_bytes);
    FIREQ_CUDA(cudaDeviceSynchronize());
  }
}

PeerEnd PeerBoxes::End(int rank) const {
  PeerEnd end;
  end.layout = layout_;
  for (size_t r = 0; r < boxes_.size(); ++r) end.boxes[r] = boxes_[r].data();
  end.calls = calls_[static_cast<size_t>(rank)].data();
  end.stop = static_cast<const uint32_t*>(stop_.data());
  end.rank = rank;
  return end;
}

int64_t PeerBoxes::MaxRows(const Tensor& rows) const {
  const int64_t row_bytes = rows.size_bytes() / rows.dim(0);
  return Takes(row_bytes) ? layout_.slot_bytes / row_bytes : 0;
}

bool PeerBoxes::HasOwners(const Tensor& rows) const {
  return rows.dtype() == DType::kBF16 && rows.rank() == 2 &&
         RanksOwnRows(layout_, rows.dim(0), rows.dim(1));
}

Tensor PeerBoxes::PartsOf(int rank, const Shape& shape) const {
  return {DType::kBF16, shape, parts_[static_cast<size_t>(rank)].data(), nullptr,
          MemorySpace::kDevice};
}

PeerSumParams PeerBoxes::Params(int rank, const Tensor& values) const {
  PeerSumParams params;
  params.end = End(rank);
  params.values = static_cast<uint4*>(values.data());
  params.vectors = values.size_bytes() / kPeerVectorBytes;
  return params;
}

OwnedRowsParams PeerBoxes::OwnedParams(int rank, const Tensor& x, PartsAt parts) const {
  OwnedRowsParams params;
  params.end = End(rank);
  params.parts_at = parts;
  params.parts = reinterpret_cast<const uint4*>(parts_[static_cast<size_t>(rank)].data());
  params.x = static_cast<uint4*>(x.data());
  params.rows = x.dim(0);
  params.k = x.dim(1);
  return params;
}

void PeerBoxes::Sum(int rank, const Tensor& values, cudaStream_t stream) const {
  LaunchPeerSum(Params(rank, values), stream);
}

void PeerBoxes::AddToOwners(int rank, const Tensor& x, PartsAt parts, cudaStream_t stream) const {
  LaunchOwnedRows(OwnedParams(rank, x, parts), stream);
}

bool PeerBoxes::AddToOwnersAndNorm(int rank, const Tensor& x, PartsAt parts,
                                   const CodesToMake& codes, cudaStream_t stream) const {
  if (codes.x.shape() != x.shape() || !codes.norm.defined() || !codes.any_order) return false;
  OwnedRowsParams launch = OwnedParams(rank, x, parts);
  launch.norm = NormOf(codes);
  LaunchOwnedRowsNorm(launch, stream);
  return true;
}

bool PeerBoxes::SumAndNorm(int rank, const Tensor& values, const CodesToMake& codes,
                           cudaStream_t stream) const {
  if (!codes.any_order) return false;
  const int64_t rows = codes.x.dim(0), k = codes.x.dim(1);
  // One row's codes are made by the GEMM that reads them (AwaitedCodes).
  if (rows < 2 || k > kMaxPeerSumNormK || k % 64 != 0 || !codes.norm.defined()) return false;
  if (HasOwners(codes.x)) {
    OwnedRowsParams launch = OwnedParams(rank, codes.x, PartsAt::kMemory);
    launch.parts = launch.x;
    launch.adds_x = false;
    launch.norm = NormOf(codes);
    LaunchOwnedRowsNorm(launch, stream);
    return true;
  }
  PeerSumNormParams launch;
  launch.sum = Params(rank, values);
  launch.rows = rows;
  launch.k = k;
  launch.norm = NormOf(codes);
  LaunchPeerSumNorm(launch, stream);
  return true;
}

void PeerBoxes::Stop() { *static_cast<volatile uint32_t*>(stop_.data()) = 1; }

}  // namespace fireq::sm90
