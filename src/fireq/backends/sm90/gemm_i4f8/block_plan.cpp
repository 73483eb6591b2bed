#include "fireq/backends/sm90/gemm_i4f8/block_plan.h"

namespace fireq::sm90 {

int BlockClusters(const GemmDevice& device) {
  return device.max_clusters[static_cast<size_t>(kChainCluster)];
}

std::optional<BlockSpread> SpreadBlockHeads(const BlockShape& s, const GemmDevice& device) {
  if (s.kv_heads <= 0 || s.num_heads % s.kv_heads != 0 || s.head_dim != kBlockHeadDim ||
      s.num_heads > kBlockMostHeads)
    return std::nullopt;
  const int64_t rows = s.num_heads / s.kv_heads;
  const int64_t ctas = int64_t{kChainCluster} * BlockClusters(device) / s.kv_heads;
  if (rows > kBlockMostRows || ctas == 0) return std::nullopt;
  const BlockSpread spread{static_cast<int>(ctas), rows <= 2 ? 0 : (rows <= 4 ? 1 : 2)};
  if (s.max_pages > kBlockMostPages || s.max_pages > kBlockSlots * ctas ||
      spread.items() > kBlockItems * ctas)
    return std::nullopt;
  return spread;
}

bool BlockLinkAddsToItsOwn(int place, int64_t k) {
  const bool adds = place == kOPlace || place == kDownPlace;
  return !adds || GemmUnits(kGemmVariants[static_cast<size_t>(kChainVariant)], k) > 1;
}

bool BlockLinkHasWords(int place, int64_t outputs) {
  const int words = place == kQkvPlace      ? kOWords - kQkvWords
                    : place == kOPlace      ? kHiddenWords - kOWords
                    : place == kGateUpPlace ? kAttentionWords - kHiddenWords
                                            : kAttentionWords - kDownWords;
  return outputs <= 2 * int64_t{words};
}

}  // namespace fireq::sm90
