// What tests of ranks on several GPUs have in common.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "fireq/backends/sm90/backend/nccl_ranks.h"
#include "fireq/backends/sm90/backend/sm90_backend.h"
#include "fireq/base/error.h"
#include "fireq/formats/bf16.h"
#include "fireq/ops/backend.h"

namespace fireq {

inline constexpr int kRanks = 2;

// body(backend, ranks) in threads, one a GPU, once the GPUs are connected.
template <class Body>
void OnGpus(int count, const Body& body) {
  std::vector<std::unique_ptr<Backend>> owned(static_cast<size_t>(count));
  std::vector<Backend*> backends(static_cast<size_t>(count));
  for (int r = 0; r < count; ++r) {
    owned[static_cast<size_t>(r)] = MakeSm90Backend(r);
    backends[static_cast<size_t>(r)] = owned[static_cast<size_t>(r)].get();
  }
  const auto ranks = MakeNcclRanks(backends);
  std::vector<std::jthread> threads;
  for (int r = 0; r < count; ++r)
    threads.emplace_back([&, r] {
      const auto own = MakeSm90Backend(r);  // makes this thread's device current
      body(*backends[static_cast<size_t>(r)], ranks[static_cast<size_t>(r)]);
    });
}

inline bool HasGpus(int count) {
  try {
    MakeSm90Backend(count - 1);
    return true;
  } catch (const Error&) {
    return false;
  }
}
inline bool TwoGpus() { return HasGpus(kRanks); }
// Up to four.
inline int NumGpus() {
  int count = 4;
  while (count > kRanks && !HasGpus(count)) --count;
  return count;
}

// As many as there are GPUs.
inline std::vector<Tensor> RandomParts(int64_t count) {
  const int ranks = NumGpus();
  std::vector<Tensor> parts;
  std::mt19937 rng(std::random_device{}());
  std::normal_distribution<float> normal;
  for (int r = 0; r < ranks; ++r) {
    parts.push_back(Tensor::Empty(DType::kBF16, {count}));
    for (int64_t i = 0; i < count; ++i) parts.back().as<bf16_t>()[i] = FloatToBf16(normal(rng));
  }
  return parts;
}

// Of value `i` over `parts` in FP32 from the first on.
inline bf16_t SumAt(const std::vector<Tensor>& parts, int64_t i) {
  float sum = 0.0f;
  for (const Tensor& part : parts) sum += Bf16ToFloat(part.as<bf16_t>()[i]);
  return FloatToBf16(sum);
}

}  // namespace fireq
