// Linear weights ready for the GPU: packed INT4 tiles, or a BF16 matrix.
#pragma once

#include "fireq/backends/sm90/runtime/stream.h"
#include "fireq/formats/weight_i4_tile.h"
#include "fireq/ops/args.h"

namespace fireq::sm90 {

class Sm90Linear final : public PreparedLinear {
 public:
  // Packs on the host with a few threads, then uploads. Errors: kUnsupported for float parts among
  // quantised ones, for a float weight that is not a single BF16 or F32 matrix, and for shapes that
  // the tile order does not take.
  Sm90Linear(LinearSpec spec, const std::shared_ptr<Stream>& stream);

  // Made on the device (random_weights/). Errors: kUnsupported as above.
  Sm90Linear(const RandomLinearSpec& spec, const std::shared_ptr<Stream>& stream);

  int64_t n() const override { return n_; }
  int64_t k() const override { return k_; }
  bool quantized() const override { return tiles.defined(); }

  WeightTileLayout layout;
  Tensor tiles;       // U8 [layout.size_bytes()]
  Tensor row_scales;  // F32 [N] 1/t in packed row order
  Tensor bias;        // F32 [N] in packed row order, or undefined
  Tensor bf16;        // BF16 [N, K] of a float weight

 private:
  void PackQuantised(const LinearSpec& spec, const std::shared_ptr<Stream>& stream);

  int64_t n_ = 0;
  int64_t k_ = 0;
};

// Bytes of a host tensor to device memory; both return when the copy has been made.
void CopyToDevice(const Tensor& host, const Tensor& to, const Stream& stream);
Tensor UploadTensor(const Tensor& host, const std::shared_ptr<Stream>& stream);

}  // namespace fireq::sm90
