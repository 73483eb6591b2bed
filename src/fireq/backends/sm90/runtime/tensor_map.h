// Tensor maps: what the copy engine (TMA) knows of a tensor in device memory.
#pragma once

#include <cuda.h>

#include <cstdint>
#include <span>

namespace fireq::sm90 {

// A map of a row-major tensor of 1..5 dimensions of elements of `type`, innermost dimension first.
//
//   address   device, 16-byte aligned
//   sizes     elements of each dimension
//   strides   bytes between neighbours of dimensions 1.. (one fewer than sizes), multiples of 16
//   box       elements copied at once; box[0] * element size is a multiple of 16 and at most the
//             span of `swizzle`
// What lies outside the tensor reads as zero. Throws kInvalidArgument with the sizes, kCuda without
// a driver.
CUtensorMap MakeTensorMap(CUtensorMapDataType type, const void* address,
                          std::span<const uint64_t> sizes, std::span<const uint64_t> strides,
                          std::span<const uint32_t> box, CUtensorMapSwizzle swizzle);

}  // namespace fireq::sm90
