#include "fireq/backends/sm90/runtime/tensor_map.h"

#include <array>

#include "fireq/backends/sm90/runtime/check.h"

namespace fireq::sm90 {
namespace {

using EncodeFn = decltype(&cuTensorMapEncodeTiled);

// The driver is asked at run time, so that nothing links against it.
EncodeFn FindEncode() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found{};
  FIREQ_CUDA(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                              cudaEnableDefault, &found));
  FIREQ_CHECK(found == cudaDriverEntryPointSuccess && function != nullptr, kCuda,
              "the driver has no cuTensorMapEncodeTiled");
  return reinterpret_cast<EncodeFn>(function);
}

}  // namespace

CUtensorMap MakeTensorMap(CUtensorMapDataType type, const void* address,
                          std::span<const uint64_t> sizes, std::span<const uint64_t> strides,
                          std::span<const uint32_t> box, CUtensorMapSwizzle swizzle) {
  static const EncodeFn encode = FindEncode();
  FIREQ_CHECK(!sizes.empty() && sizes.size() <= 5 && strides.size() + 1 == sizes.size() &&
                  box.size() == sizes.size(),
              kInvalidArgument, "tensor map of ", sizes.size(), " sizes, ", strides.size(),
              " strides, ", box.size(), " box sizes");
  const std::array<uint32_t, 5> unit{1, 1, 1, 1, 1};
  CUtensorMap map;
  const CUresult status =
      encode(&map, type, static_cast<uint32_t>(sizes.size()), const_cast<void*>(address),
             sizes.data(), strides.data(), box.data(), unit.data(), CU_TENSOR_MAP_INTERLEAVE_NONE,
             swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  FIREQ_CHECK(status == CUDA_SUCCESS, kInvalidArgument, "tensor map of ", sizes[0],
              " elements a row, box ", box[0], ": driver status ", static_cast<int>(status));
  return map;
}

}  // namespace fireq::sm90
