#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "fireq/quant/grid_errors.cpp"
#include "fireq/quant/grid_errors.h"

#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// After foreach_target.h: once a target.
#include "fireq/quant/product_values.h"

HWY_BEFORE_NAMESPACE();
namespace fireq::quant::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace {

template <ErrorProducts P, class D, class V>
HWY_INLINE V SquaredError(D d, V w, V scale, V zero) {
  const V exact = hn::Mul(hn::Sub(CodeOf(d, w, scale, zero), zero), scale);
  const V miss = hn::Sub(exact, w);
  if constexpr (P == ErrorProducts::kExact) return hn::Mul(miss, miss);
  const V table = hn::Sub(RoundToE4M3(d, exact), w);
  if constexpr (P == ErrorProducts::kTable) return hn::Mul(table, table);
  return hn::Mul(hn::Set(d, 0.5f), hn::Add(hn::Mul(miss, miss), hn::Mul(table, table)));
}

template <ErrorProducts P>
void Accumulate(std::span<const float> w, std::span<const float> h, CandidateErrors& all) {
  const hn::CappedTag<float, 16> d;
  for (size_t c = 0; c < all.padded; c += hn::Lanes(d)) {
    const auto scale = hn::Load(d, &all.scale[c]), zero = hn::Load(d, &all.zero[c]);
    auto error = hn::Load(d, &all.error[c]);
    // Not fused, so that the choice does not depend on the width of a vector.
    for (size_t k = 0; k < w.size(); ++k)
      error = hn::Add(error,
                      hn::Mul(hn::Set(d, h[k]), SquaredError<P>(d, hn::Set(d, w[k]), scale, zero)));
    hn::Store(error, d, &all.error[c]);
  }
}

}  // namespace

void Errors(std::span<const float> w, std::span<const float> h, ErrorProducts products,
            CandidateErrors& candidates) {
  switch (products) {
    case ErrorProducts::kTable:
      return Accumulate<ErrorProducts::kTable>(w, h, candidates);
    case ErrorProducts::kExact:
      return Accumulate<ErrorProducts::kExact>(w, h, candidates);
    case ErrorProducts::kMean:
      return Accumulate<ErrorProducts::kMean>(w, h, candidates);
  }
}

}  // namespace fireq::quant::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fireq::quant {
HWY_EXPORT(Errors);
void AddErrors(std::span<const float> w, std::span<const float> h, ErrorProducts products,
               CandidateErrors& candidates) {
  HWY_DYNAMIC_DISPATCH(Errors)(w, h, products, candidates);
}
}  // namespace fireq::quant
#endif
