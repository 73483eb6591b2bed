// Small grids over all multiprocessors.
#pragma once

#include <cstdint>

namespace fireq::sm90 {

// Bytes of dynamic shared memory with which no multiprocessor holds more of `ctas` CTAs than its
// even share; 0 for grids whose share is one or many. Under programmatic dependent launch CTAs
// start where the kernel in front leaves room, and a small grid would pile up on the few
// multiprocessors that have none of that kernel's, while the others, free a moment later, get
// nothing to do. `static_bytes`: at least what a CTA has besides. Allows `kernel` that much.
// Errors: kCuda.
int SpreadSharedBytes(const void* kernel, int64_t ctas, int static_bytes);

}  // namespace fireq::sm90
