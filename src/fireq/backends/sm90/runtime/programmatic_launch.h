// Launches of kernels that wait by themselves for the one in front of them in the stream.
#pragma once

#include <cuda_runtime.h>

#include <array>
#include <cstddef>

namespace fireq::sm90 {

struct LaunchShape {
  dim3 grid;
  int threads = 0;
  int shared_bytes = 0;  // dynamic
  int cluster = 1;       // CTAs
  // May start before the kernel in front has ended (programmatic dependent launch).
  bool programmatic = true;
};

template <class Params>
cudaError_t LaunchProgrammatic(void (*kernel)(Params), const LaunchShape& shape,
                               const Params& params, cudaStream_t stream) {
  std::array<cudaLaunchAttribute, 2> attributes{};
  unsigned count = 0;
  if (shape.programmatic) {
    attributes[count].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[count++].val.programmaticStreamSerializationAllowed = 1;
  }
  if (shape.cluster > 1) {
    attributes[count].id = cudaLaunchAttributeClusterDimension;
    attributes[count++].val.clusterDim = {static_cast<unsigned>(shape.cluster), 1, 1};
  }
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = dim3(static_cast<unsigned>(shape.threads));
  config.dynamicSmemBytes = static_cast<size_t>(shape.shared_bytes);
  config.stream = stream;
  config.attrs = attributes.data();
  config.numAttrs = count;
  return cudaLaunchKernelEx(&config, kernel, params);
}

}  // namespace fireq::sm90
