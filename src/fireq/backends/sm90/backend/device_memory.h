// Tensors in device memory, allocated in stream order: freeing one does not stop the GPU.
#pragma once

#include "fireq/backends/sm90/runtime/stream.h"
#include "fireq/tensor/tensor.h"

namespace fireq::sm90 {

// Keeps `stream` alive as long as any tensor made with it. Throws kOutOfMemory with the bytes.
Tensor AllocateDevice(const std::shared_ptr<Stream>& stream, DType dtype, Shape shape);

// Lets the device's memory pool keep what is freed instead of giving it back at every
// synchronisation. Once a device. Throws kCuda.
void KeepFreedMemory(int device);

}  // namespace fireq::sm90
