// Measurements beside the GEMM alone; each prints its CSV.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "bench/gemm/arena.h"

namespace fireq::bench {

// gate|up with SiLU(gate) up, its quantisation, down; against cuBLASLt FP16 with a kernel for
// SiLU(gate) up between: model,M,kernel,median_us,cublas_fp16_us,ratio_fp16 (theirs over ours).
void BenchFfn(const Arena& arena, const std::vector<int64_t>& tokens,
              const sm90::GemmDevice& device, std::span<const sm90::TunedGemm> tuned);

// Each of these FFNs once behind three that a profiler does not see; a row for each of its
// launches, without times.
void ProfileFfn(const Arena& arena, const std::vector<int64_t>& tokens,
                const sm90::GemmDevice& device, std::span<const sm90::TunedGemm> tuned);

// Replays a graph of FFNs `replays` times and compares the last output with the first, bit for bit:
// what hangs or races once in a hundred thousand launches.
void SoakFfn(const Arena& arena, const std::vector<int64_t>& tokens, const sm90::GemmDevice& device,
             std::span<const sm90::TunedGemm> tuned, int replays);

// The producers of E4M3 rows against a device-to-device copy that moves as many bytes:
// kernel,M,K,median_us,copy_us,ratio_copy (the copy's time over ours). Norms of few rows have a
// row more, of the launch where the order of sums may depend on their number.
void BenchProducers(const Arena& arena, const std::vector<int64_t>& tokens);

// Each of them once behind three launches that a profiler does not see; a row for each, without
// times.
void ProfileProducers(const Arena& arena, const std::vector<int64_t>& tokens);

}  // namespace fireq::bench
