// Attention and the work before it: RoPE, the cache's quantisation and write.
#pragma once

#include "fireq/backends/cpu/context.h"
#include "fireq/ops/args.h"

namespace fireq::cpu {

void RunRopeKvWrite(Context& context, const RopeKvWriteArgs& args);
void RunAttention(Context& context, const AttentionArgs& args);

}  // namespace fireq::cpu
