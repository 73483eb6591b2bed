// Launches of kernels that wait by themselves for the one in front of them in the stream.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

namespace fireq::sm90 {

struct LaunchShape {
  dim3 grid;
  int threads = 0;
  int shared_bytes = 0;  // dynamic
  // May start before the kernel in front has ended (programmatic dependent launch).
  bool programmatic = true;
};

template <class Params>
cudaError_t LaunchProgrammatic(void (*kernel)(Params), const LaunchShape& shape,
                               const Params& params, cudaStream_t stream) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = dim3(static_cast<unsigned>(shape.threads));
  config.dynamicSmemBytes = static_cast<size_t>(shape.shared_bytes);
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = shape.programmatic ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, params);
}

}  // namespace fireq::sm90
