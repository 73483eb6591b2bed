#include "fireq/backends/sm90/backend/prepared.h"

#include <algorithm>

#include "fireq/backends/sm90/backend/device_memory.h"
#include "fireq/backends/sm90/random_weights/launch.h"
#include "fireq/base/thread_pool.h"
#include "fireq/formats/bf16.h"
#include "fireq/formats/random_weight.h"
#include "fireq/ops/random_weights.h"

namespace fireq::sm90 {
namespace {

constexpr int kPackThreads = 8;

WeightI4Part PartOf(const LinearPart& part) {
  return {.n = part.i4.n,
          .codes = part.i4.codes.as<uint8_t>(),
          .scales = part.i4.scale.as<uint8_t>(),
          .zeros = part.i4.zero.as<uint8_t>(),
          .t = part.i4.t};
}

// Biases of all parts in packed row order; parts without one have zeros. Undefined if none has.
Tensor PackBias(const LinearSpec& spec, int64_t n, RowOrder order) {
  if (std::none_of(spec.parts.begin(), spec.parts.end(),
                   [](const LinearPart& part) { return part.bias.defined(); }))
    return {};
  Tensor out = Tensor::Zeros(DType::kF32, {n});
  int64_t begin = 0;
  for (size_t p = 0; p < spec.parts.size(); ++p) {
    const LinearPart& part = spec.parts[p];
    for (int64_t i = 0; part.bias.defined() && i < part.i4.n; ++i) {
      const int64_t row =
          order == RowOrder::kGateUp ? i / 8 * 16 + static_cast<int64_t>(p) * 8 + i % 8 : begin + i;
      out.as<float>()[row] = part.bias.as<float>()[i];
    }
    begin += part.i4.n;
  }
  return out;
}

Tensor ToBf16(const LinearPart& part) {
  if (part.weight.dtype() == DType::kBF16) return part.weight;
  FIREQ_CHECK(part.weight.dtype() == DType::kF32, kUnsupported, part.name, ": ",
              Name(part.weight.dtype()), " weights on the GPU; the CPU backend runs them");
  Tensor out = Tensor::Empty(DType::kBF16, part.weight.shape());
  std::transform(part.weight.as<float>(), part.weight.as<float>() + out.num_elements(),
                 out.as<bf16_t>(), FloatToBf16);
  return out;
}

}  // namespace

void CopyToDevice(const Tensor& host, const Tensor& to, const Stream& stream) {
  FIREQ_CUDA(cudaMemcpyAsync(to.data(), host.data(), static_cast<size_t>(host.size_bytes()),
                             cudaMemcpyHostToDevice, stream.get()));
  stream.Synchronize();  // the host tensor may go away
}

Tensor UploadTensor(const Tensor& host, const std::shared_ptr<Stream>& stream) {
  Tensor out = AllocateDevice(stream, host.dtype(), host.shape());
  CopyToDevice(host, out, *stream);
  return out;
}

Sm90Linear::Sm90Linear(LinearSpec spec, const std::shared_ptr<Stream>& stream) {
  const auto is_i4 = [](const LinearPart& part) { return part.i4.codes.defined(); };
  if (std::all_of(spec.parts.begin(), spec.parts.end(), is_i4)) {
    PackQuantised(spec, stream);
    return;
  }
  FIREQ_CHECK(spec.parts.size() == 1 && !spec.parts[0].bias.defined(), kUnsupported,
              spec.parts[0].name,
              ": the GPU runs float weights only as a single matrix without bias (lm_head)");
  bf16 = UploadTensor(ToBf16(spec.parts[0]), stream);
  n_ = bf16.dim(0);
  k_ = bf16.dim(1);
}

Sm90Linear::Sm90Linear(const RandomLinearSpec& spec, const std::shared_ptr<Stream>& stream) {
  k_ = spec.k;
  if (spec.form == WeightForm::kBf16) {
    n_ = spec.part_rows[0];
    bf16 = AllocateDevice(stream, DType::kBF16, {n_, k_});
    LaunchRandomBf16(spec.seed, bf16.num_elements(), RandomWeightSpread(k_), bf16.as<bf16_t>(),
                     stream->get());
    return;
  }
  std::vector<WeightI4Part> parts;
  for (const int64_t n : spec.part_rows) parts.push_back({.n = n});
  const RowOrder order = spec.gate_up ? RowOrder::kGateUp : RowOrder::kStacked;
  layout = TileLayoutOf(parts, k_, order);
  n_ = layout.n;
  tiles = AllocateDevice(stream, DType::kU8, {layout.size_bytes()});
  LaunchRandomTiles(layout, order, spec.seed, tiles.as<uint8_t>(), stream->get());
  row_scales = UploadTensor(
      Tensor::FromVector(DType::kF32, {n_},
                         std::vector<float>(static_cast<size_t>(n_), 1.0f / RandomWeightT(k_))),
      stream);
}

void Sm90Linear::PackQuantised(const LinearSpec& spec, const std::shared_ptr<Stream>& stream) {
  std::vector<WeightI4Part> parts;
  for (const LinearPart& part : spec.parts) parts.push_back(PartOf(part));
  k_ = spec.parts[0].i4.k;
  const RowOrder order = spec.gate_up ? RowOrder::kGateUp : RowOrder::kStacked;
  layout = TileLayoutOf(parts, k_, order);
  n_ = layout.n;
  const Tensor packed = Tensor::Empty(DType::kU8, {layout.size_bytes()});
  const Tensor scales = Tensor::Empty(DType::kF32, {n_});
  ThreadPool pool(kPackThreads);
  pool.ParallelFor(layout.row_blocks(), 4, [&](int64_t begin, int64_t end, int) {
    PackWeightTiles(parts, k_, order, begin, end, packed.as<uint8_t>(), scales.as<float>());
  });
  tiles = UploadTensor(packed, stream);
  row_scales = UploadTensor(scales, stream);
  const Tensor host_bias = PackBias(spec, n_, order);
  if (host_bias.defined()) bias = UploadTensor(host_bias, stream);
}

}  // namespace fireq::sm90
