#include "fireq/backends/sm90/runtime/stream.h"

namespace fireq::sm90 {

Stream::Stream() {
  cudaStream_t stream = nullptr;
  FIREQ_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  handle_.reset(stream);
}

Event::Event(Timing timing) {
  cudaEvent_t event = nullptr;
  FIREQ_CUDA(cudaEventCreateWithFlags(
      &event, timing == Timing::kNone ? cudaEventDisableTiming : cudaEventDefault));
  handle_.reset(event);
}

double Event::MicrosecondsSince(const Event& start) const {
  float milliseconds = 0.0f;
  FIREQ_CUDA(cudaEventElapsedTime(&milliseconds, start.get(), get()));
  return 1e3 * static_cast<double>(milliseconds);
}

Graph::Graph(const Stream& stream, const std::function<void(cudaStream_t)>& body) {
  cudaGraph_t graph = nullptr;
  FIREQ_CUDA(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal));
  try {
    body(stream.get());
  } catch (...) {
    static_cast<void>(cudaStreamEndCapture(stream.get(), &graph));
    if (graph != nullptr) static_cast<void>(cudaGraphDestroy(graph));
    throw;
  }
  FIREQ_CUDA(cudaStreamEndCapture(stream.get(), &graph));
  cudaGraphExec_t exec = nullptr;
  const cudaError_t status = cudaGraphInstantiate(&exec, graph, 0);
  static_cast<void>(cudaGraphDestroy(graph));
  CheckCuda(status, "cudaGraphInstantiate");
  handle_.reset(exec);
}

}  // namespace fireq::sm90
