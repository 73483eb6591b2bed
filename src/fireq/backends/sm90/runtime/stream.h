// Owned CUDA streams, events and graphs. Move-only; destructors do not throw.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <type_traits>

#include "fireq/backends/sm90/runtime/check.h"

namespace fireq::sm90 {

// A non-blocking stream (not ordered with the default stream).
class Stream {
 public:
  Stream();
  cudaStream_t get() const { return handle_.get(); }
  void Synchronize() const { FIREQ_CUDA(cudaStreamSynchronize(get())); }

 private:
  struct Destroy {
    void operator()(cudaStream_t stream) const { static_cast<void>(cudaStreamDestroy(stream)); }
  };
  std::unique_ptr<std::remove_pointer_t<cudaStream_t>, Destroy> handle_;
};

class Event {
 public:
  // One that is only waited for takes no time itself, and no clock is read.
  enum class Timing : uint8_t { kMicroseconds, kNone };
  explicit Event(Timing timing = Timing::kMicroseconds);
  cudaEvent_t get() const { return handle_.get(); }
  void Record(cudaStream_t stream) const { FIREQ_CUDA(cudaEventRecord(get(), stream)); }
  void Synchronize() const { FIREQ_CUDA(cudaEventSynchronize(get())); }
  // Microseconds from `start` to this event; both recorded and reached.
  double MicrosecondsSince(const Event& start) const;

 private:
  struct Destroy {
    void operator()(cudaEvent_t event) const { static_cast<void>(cudaEventDestroy(event)); }
  };
  std::unique_ptr<std::remove_pointer_t<cudaEvent_t>, Destroy> handle_;
};

// An instantiated CUDA graph of whatever `body` queues on the stream given to it.
class Graph {
 public:
  // Nothing runs yet. `body` must not synchronise or allocate.
  explicit Graph(const std::function<void(cudaStream_t)>& body) : Graph(Stream(), body) {}
  // The same on a stream of the caller's, which only captures meanwhile.
  Graph(const Stream& stream, const std::function<void(cudaStream_t)>& body);
  void Launch(cudaStream_t stream) const { FIREQ_CUDA(cudaGraphLaunch(handle_.get(), stream)); }

 private:
  struct Destroy {
    void operator()(cudaGraphExec_t graph) const { static_cast<void>(cudaGraphExecDestroy(graph)); }
  };
  std::unique_ptr<std::remove_pointer_t<cudaGraphExec_t>, Destroy> handle_;
};

}  // namespace fireq::sm90
