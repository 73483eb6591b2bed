#include "fireq/api/fireq.h"
#include "fireq/checkpoint/model_alias.h"

namespace fireq {

std::string ResolveModel(const std::string& model, const RuntimeOptions& options) {
  FetchOptions fetch;
  fetch.cache_directory = options.cache_dir;
  fetch.say = options.say;
  return ResolveModel(model, fetch).string();
}

}  // namespace fireq
