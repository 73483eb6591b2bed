// A loaded model: configuration, meaning of its bytes, weights prepared for one backend.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>

#include "fireq/checkpoint/model_config.h"
#include "fireq/checkpoint/model_source.h"
#include "fireq/checkpoint/quant_config.h"
#include "fireq/model/llama.h"
#include "fireq/model/weights.h"
#include "fireq/ops/backend.h"

namespace fireq {

struct Model {
  ModelConfig config;  // of a share: what this rank has (model/share.h)
  QuantConfig quant;   // of a float model: all defaults
  bool quantized = false;
  ModelWeights weights;
  std::shared_ptr<Ranks> ranks;  // who has the other shares; null: nobody
};

// Makes of the lm_head as stored (a float weight) what is to be prepared.
using HeadMaker = std::function<LinearPart(LinearPart stored)>;

// Loads a float model or a FireQ checkpoint, whichever `path` is; without `make_head` the lm_head
// is what is stored. Of a share `ranks` is still to be set. Throws what the reader throws
// (kNotFound, kCorrupt, kUnsupported), naming file and tensor, and what ShareOf throws.
Model LoadModel(Backend& backend, const std::filesystem::path& path,
                const HeadMaker& make_head = {}, Share share = {});

// The same, but each block is read when a forward comes to it and dropped behind it: for one pass
// over a model that is larger than memory.
Model OpenModel(Backend& backend, const std::filesystem::path& path);

// A context for forwards of `model` over up to `max_context` tokens a sequence.
ForwardContext MakeContext(Backend& backend, const Model& model, int64_t max_context,
                           Products products);

}  // namespace fireq
