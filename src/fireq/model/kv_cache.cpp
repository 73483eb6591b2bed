#include "fireq/model/kv_cache.h"

namespace fireq {

KvCache::KvCache(Backend& backend, const ModelConfig& config, KvGrid grid, int64_t num_layers,
                 int64_t num_pages)
    : num_pages_(num_pages) {
  const KvPageLayout layout{grid, static_cast<int>(config.num_kv_heads),
                            static_cast<int>(config.head_dim)};
  for (int64_t i = 0; i < num_layers; ++i)
    layers_.push_back({backend.Allocate(DType::kU8, {num_pages, layout.page_bytes()}), layout});
}

int64_t KvCache::size_bytes() const {
  int64_t total = 0;
  for (const KvLayer& layer : layers_) total += layer.pages.size_bytes();
  return total;
}

}  // namespace fireq
