// CUDA status codes to fireq::Error. A kCuda error poisons the context: the caller must stop.
#pragma once

#include <cuda_runtime_api.h>

#include <string>
#include <string_view>

#include "fireq/base/error.h"

namespace fireq::sm90 {

// Throws kCuda (kOutOfMemory for a failed allocation) naming `what`, CUDA's name and its sentence.
void CheckCuda(cudaError_t status, std::string_view what);

// After a launch: throws kCuda with the kernel's name if it could not be queued.
inline void CheckLaunch(std::string_view kernel) { CheckCuda(cudaGetLastError(), kernel); }

// True if a GPU of compute capability 9.x is there.
bool HasHopper();

// "the NVIDIA driver is ...", of one that is too old for this build; else empty.
std::string OldDriver();

// Makes GPU number `device` the calling thread's. Throws kUnsupported with the reason unless it is
// there and a Hopper.
void UseHopper(int device);

// Multiprocessors of the current device. Throws kCuda.
int NumSms();

}  // namespace fireq::sm90

#define FIREQ_CUDA(call) ::fireq::sm90::CheckCuda((call), #call)
