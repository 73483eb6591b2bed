// E4M3(x) on vectors, for code that Highway compiles once for every vector width: include it after
// hwy/foreach_target.h (hence no #pragma once). The values are those of e4m3.h.
#if defined(FIREQ_FORMATS_E4M3_VECTOR_H) == defined(HWY_TARGET_TOGGLE)
#ifdef FIREQ_FORMATS_E4M3_VECTOR_H
#undef FIREQ_FORMATS_E4M3_VECTOR_H
#else
#define FIREQ_FORMATS_E4M3_VECTOR_H
#endif

#include "fireq/formats/e4m3.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace fireq::HWY_NAMESPACE {

// |E4M3(v)| of |v|: adding and subtracting 2^20 times the power of two of |v| (at least 2^-6)
// rounds half to even to 3 mantissa bits, or to the subnormals' 2^-9. A NaN comes out as 448.
template <class D>
HWY_INLINE hwy::HWY_NAMESPACE::Vec<D> RoundMagnitudeE4M3(D d,
                                                         hwy::HWY_NAMESPACE::Vec<D> magnitude) {
  namespace hn = hwy::HWY_NAMESPACE;
  const hn::Rebind<int32_t, D> di;
  const auto limited =
      hn::IfThenElse(hn::Lt(magnitude, hn::Set(d, kE4M3Max)), magnitude, hn::Set(d, kE4M3Max));
  const auto exponent =
      hn::Max(hn::And(hn::BitCast(di, limited), hn::Set(di, 0x7F800000)), hn::Set(di, 0x3C800000));
  const auto magic = hn::BitCast(d, hn::Add(exponent, hn::Set(di, 20 << 23)));
  return hn::Sub(hn::Add(limited, magic), magic);
}

// E4M3(x), except that a NaN comes out as +-448.
template <class D>
HWY_INLINE hwy::HWY_NAMESPACE::Vec<D> RoundToE4M3(D d, hwy::HWY_NAMESPACE::Vec<D> x) {
  namespace hn = hwy::HWY_NAMESPACE;
  return hn::CopySign(RoundMagnitudeE4M3(d, hn::Abs(x)), x);
}

}  // namespace fireq::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
