// What the backend puts on its stream besides ops: marks of time, and ops recorded as a graph.
#pragma once

#include <functional>
#include <memory>
#include <utility>

#include "fireq/backends/sm90/backend/turns.h"
#include "fireq/backends/sm90/runtime/check.h"
#include "fireq/backends/sm90/runtime/stream.h"
#include "fireq/ops/backend.h"

namespace fireq::sm90 {

class DeviceTimePoint final : public TimePoint {
 public:
  explicit DeviceTimePoint(const Stream& stream) {
    cudaStreamCaptureStatus capturing{};
    FIREQ_CUDA(cudaStreamIsCapturing(stream.get(), &capturing));
    // External: each run of a captured graph sets it again.
    FIREQ_CUDA(cudaEventRecordWithFlags(event_.get(), stream.get(),
                                        capturing == cudaStreamCaptureStatusActive
                                            ? cudaEventRecordExternal
                                            : cudaEventRecordDefault));
  }
  double MicrosecondsSince(const TimePoint& start) const override {
    return event_.MicrosecondsSince(dynamic_cast<const DeviceTimePoint&>(start).event_);
  }

 private:
  Event event_;
};

class GraphRecording final : public Recording {
 public:
  // Inside a turn of the stream's: an event of another must not become a part of what is recorded.
  // `begin` takes the turn of a run and queues what the ops before it have left to be queued.
  GraphRecording(std::shared_ptr<Stream> stream, const std::function<void()>& body,
                 std::function<HeldTurn()> begin)
      : stream_(std::move(stream)),
        begin_(std::move(begin)),
        graph_(*stream_, [&](cudaStream_t) { body(); }) {}
  void Run() override {
    const HeldTurn turn = begin_();
    graph_.Launch(stream_->get());
  }

 private:
  std::shared_ptr<Stream> stream_;
  std::function<HeldTurn()> begin_;
  Graph graph_;
};

}  // namespace fireq::sm90
