// Pages of K and V for every layer of a model, in a backend's memory.
#pragma once

#include <vector>

#include "fireq/checkpoint/model_config.h"
#include "fireq/ops/backend.h"

namespace fireq {

// A page number means the same page in every layer. Who owns which page is the engine's business.
class KvCache {
 public:
  // Pages for `num_layers` layers; throws kOutOfMemory naming the bytes asked for.
  KvCache(Backend& backend, const ModelConfig& config, KvGrid grid, int64_t num_layers,
          int64_t num_pages);

  const std::vector<KvLayer>& layers() const { return layers_; }
  int64_t num_pages() const { return num_pages_; }
  int64_t size_bytes() const;

 private:
  std::vector<KvLayer> layers_;
  int64_t num_pages_;
};

}  // namespace fireq
