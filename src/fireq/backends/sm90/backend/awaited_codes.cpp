#include "fireq/backends/sm90/backend/awaited_codes.h"

#include "fireq/backends/sm90/elementwise/few_rows.h"
#include "fireq/base/error.h"

namespace fireq::sm90 {
namespace {

// More rows are made at once: no GEMM takes them (MakeResidentGemmPlan).
constexpr int64_t kMaxAwaitedRows = 1;

void Launch(const CodesToMake& codes, cudaStream_t stream) {
  const QuantizedRows out{codes.out.values.as<uint8_t>(), codes.out.scale.as<float>(),
                          codes.out.sums.as<float>()};
  const int64_t rows = codes.x.dim(0), k = codes.x.dim(1);
  if (!codes.norm.defined())
    return LaunchQuantizeRows({codes.x.as<bf16_t>(), rows, k, out, codes.ready}, stream);
  RmsNormQuantArgs launch;
  launch.x = codes.x.as<bf16_t>();
  launch.weight = codes.norm.as<float>();
  launch.eps = codes.eps;
  launch.rows = rows;
  launch.k = k;
  launch.out = out;
  if (codes.any_order && LaunchRmsNormQuantOfFewRows(launch, stream)) return;
  LaunchRmsNormQuant(launch, stream);
}

}  // namespace

void AwaitedCodes::Ask(const CodesToMake& codes, cudaStream_t stream) {
  Make(stream);
  unmade_.erase(codes.out.values.data());
  if (codes.x.dim(0) > kMaxAwaitedRows) return Launch(codes, stream);
  awaited_ = codes;
  read_ = false;
}

const CodesToMake* AwaitedCodes::Find(const uint8_t* codes) const {
  return awaited_ && awaited_->out.values.data() == codes ? &*awaited_ : nullptr;
}

void AwaitedCodes::MadeByReader(const void* written) {
  read_ = true;
  if (written != awaited_->x.data()) return;
  unmade_.insert(awaited_->out.values.data());
  awaited_.reset();
}

void AwaitedCodes::Make(cudaStream_t stream, const void* wanted) {
  if (awaited_) {
    const CodesToMake codes = *awaited_;
    awaited_.reset();
    if (!read_ || wanted == codes.out.values.data()) {
      Launch(codes, stream);
    } else {
      unmade_.insert(codes.out.values.data());
    }
  }
  FIREQ_CHECK(!unmade_.contains(wanted), kInternal,
              "codes that a linear made for itself are read again");
}

}  // namespace fireq::sm90
