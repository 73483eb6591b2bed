// Token ids for tests of models without a tokenizer.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

namespace fireq::test {

// `count` ids below `vocab`.
inline std::vector<int32_t> RandomIds(std::mt19937& rng, int64_t count, int64_t vocab) {
  std::vector<int32_t> ids(static_cast<size_t>(count));
  for (int32_t& id : ids) id = static_cast<int32_t>(rng() % static_cast<uint64_t>(vocab));
  return ids;
}

}  // namespace fireq::test
