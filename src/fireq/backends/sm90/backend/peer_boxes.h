// Memory through which the GPUs of one host add short messages up (peer_sum/launch.h).
#pragma once

#include <memory>
#include <vector>

#include "fireq/backends/sm90/backend/awaited_codes.h"
#include "fireq/backends/sm90/peer_sum/launch.h"
#include "fireq/backends/sm90/runtime/device_buffer.h"
#include "fireq/backends/sm90/runtime/pinned_buffer.h"
#include "fireq/tensor/tensor.h"

namespace fireq::sm90 {

class PeerBoxes {
 public:
  // Boxes on devices 0, 1, ... of `ranks`, or null if they cannot read each other's memory.
  static std::unique_ptr<PeerBoxes> Make(int ranks);

  bool Takes(int64_t bytes) const { return layout_.Takes(bytes); }
  // How many of these rows a sum takes at most.
  int64_t MaxRows(const Tensor& rows) const;
  bool HasOwners(const Tensor& rows) const;
  PeerEnd End(int rank) const;  // valid as long as this
  // Memory for a rank's part of rows that have owners.
  Tensor PartsOf(int rank, const Shape& shape) const;
  // Of `rank`'s values, BF16 in its memory, in its stream.
  void Sum(int rank, const Tensor& values, cudaStream_t stream) const;
  // The same, and the codes of the norm of the sums, if it takes such rows.
  bool SumAndNorm(int rank, const Tensor& values, const CodesToMake& codes,
                  cudaStream_t stream) const;
  // Of rows that have owners: x += the sum of the ranks' parts, all of it for every rank; or its
  // own rows and the codes of their norm, if it takes such rows.
  void AddToOwners(int rank, const Tensor& x, PartsAt parts, cudaStream_t stream) const;
  bool AddToOwnersAndNorm(int rank, const Tensor& x, PartsAt parts, const CodesToMake& codes,
                          cudaStream_t stream) const;
  // Nobody waits any more.
  void Stop();

 private:
  explicit PeerBoxes(int ranks);
  PeerSumParams Params(int rank, const Tensor& values) const;
  OwnedRowsParams OwnedParams(int rank, const Tensor& x, PartsAt parts) const;

  PeerBoxLayout layout_;
  std::vector<DeviceBuffer<uint8_t>> boxes_;
  std::vector<DeviceBuffer<uint32_t>> calls_;
  std::vector<DeviceBuffer<uint8_t>> parts_;
  PinnedBuffer stop_{sizeof(uint32_t)};
};

}  // namespace fireq::sm90
