// What codes are worth and the code for a wanted value, on vectors. Included once for every vector
// width (Highway's foreach_target.h), hence no #pragma once.
#if defined(FIREQ_QUANT_PRODUCT_VALUES_H) == defined(HWY_TARGET_TOGGLE)
#ifdef FIREQ_QUANT_PRODUCT_VALUES_H
#undef FIREQ_QUANT_PRODUCT_VALUES_H
#else
#define FIREQ_QUANT_PRODUCT_VALUES_H
#endif

#include "fireq/formats/e4m3_vector.h"
#include "fireq/quant/recipe.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace fireq::quant::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using fireq::HWY_NAMESPACE::RoundToE4M3;

// clamp(rne(w / scale) + zero, 0, 15)
template <class D, class V>
HWY_INLINE V CodeOf(D d, V w, V scale, V zero) {
  // |w / scale| is clamped first: the magic number rounds |x| < 2^22 only.
  const V ratio = hn::Min(hn::Max(hn::Div(w, scale), hn::Set(d, -64.0f)), hn::Set(d, 64.0f));
  const V magic = hn::Set(d, 12582912.0f);  // 1.5 * 2^23, as in formats/rounding.h
  const V code = hn::Add(hn::Sub(hn::Add(ratio, magic), magic), zero);
  return hn::Min(hn::Max(code, hn::Zero(d)), hn::Set(d, 15.0f));
}

// The product of a code, or the mean of both products.
template <ErrorProducts P, class D, class V>
HWY_INLINE V ProductValue(D d, V code, V scale, V zero) {
  const V exact = hn::Mul(hn::Sub(code, zero), scale);
  if constexpr (P == ErrorProducts::kExact) return exact;
  const V table = RoundToE4M3(d, exact);
  if constexpr (P == ErrorProducts::kTable) return table;
  return hn::Mul(hn::Set(d, 0.5f), hn::Add(exact, table));
}

// For kMean: what the two products' distance from their mean adds to the mean squared error.
template <ErrorProducts P, class D, class V>
HWY_INLINE V ProductSpread(D d, V code, V scale, V zero) {
  if constexpr (P != ErrorProducts::kMean) return hn::Zero(d);
  const V exact = hn::Mul(hn::Sub(code, zero), scale);
  const V half = hn::Mul(hn::Set(d, 0.5f), hn::Sub(exact, RoundToE4M3(d, exact)));
  return hn::Mul(half, half);
}

// The code whose value is nearest to w, and that value. Table products are not evenly spaced, so it
// may be a neighbour of the one next to w / scale.
template <ErrorProducts P, class D, class V>
HWY_INLINE V Nearest(D d, V w, V scale, V zero, V& value) {
  V code = CodeOf(d, w, scale, zero);
  value = ProductValue<P>(d, code, scale, zero);
  if constexpr (P == ErrorProducts::kExact) return code;
  const V below = hn::Max(hn::Sub(code, hn::Set(d, 1.0f)), hn::Zero(d));
  const V above = hn::Min(hn::Add(code, hn::Set(d, 1.0f)), hn::Set(d, 15.0f));
  V error = hn::Abs(hn::Sub(value, w));
  for (const V other : {below, above}) {
    const V its_value = ProductValue<P>(d, other, scale, zero);
    const V its_error = hn::Abs(hn::Sub(its_value, w));
    const auto better = hn::Lt(its_error, error);
    code = hn::IfThenElse(better, other, code);
    value = hn::IfThenElse(better, its_value, value);
    error = hn::IfThenElse(better, its_error, error);
  }
  return code;
}

}  // namespace fireq::quant::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
