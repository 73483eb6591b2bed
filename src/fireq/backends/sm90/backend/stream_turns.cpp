#include "fireq/backends/sm90/backend/stream_turns.h"

#include <cstddef>
#include <utility>
#include <vector>

namespace fireq::sm90 {
namespace {

size_t NumDevices() {
  int count = 0;
  FIREQ_CUDA(cudaGetDeviceCount(&count));
  return static_cast<size_t>(count);
}

// The GPUs are the process's, and so are their turns.
Turns<StreamParty>& TurnsOf(int device) {
  static std::vector<Turns<StreamParty>> all(NumDevices());
  return all.at(static_cast<size_t>(device));
}

}  // namespace

StreamParty::StreamParty(int device, std::shared_ptr<Stream> stream)
    : turns_(TurnsOf(device)), stream_(std::move(stream)) {}

void StreamParty::Follow(const StreamParty& before) const {
  before.queued_.Record(before.stream_->get());
  FIREQ_CUDA(cudaStreamWaitEvent(stream_->get(), before.queued_.get()));
}

void StreamParty::Finish() const noexcept {
  static_cast<void>(cudaStreamSynchronize(stream_->get()));
}

}  // namespace fireq::sm90
