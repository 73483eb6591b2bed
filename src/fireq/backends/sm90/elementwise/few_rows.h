// The launch of launch.h for few rows, where the order of a row's sums may depend on their number.
#pragma once

#include "fireq/backends/sm90/elementwise/launch.h"

namespace fireq::sm90 {

// LaunchRmsNormQuant with more threads a row; false, and nothing is launched, if there are more
// rows than that pays for, or K is not among those that it was measured for.
bool LaunchRmsNormQuantOfFewRows(const RmsNormQuantArgs& args, cudaStream_t stream);

}  // namespace fireq::sm90
