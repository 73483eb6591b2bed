// Runs calibration text through the float model, block by block, and keeps what recipes ask about;
// beside it, if the recipe follows, through the model as it has been quantised so far.
//
// Between blocks only the residual streams of every window are kept, [T, D] each (131,072 tokens of
// a 70B model: 4.3 GB in F32), within a block also the input of o or of down.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "fireq/base/thread_pool.h"
#include "fireq/checkpoint/model_config.h"
#include "fireq/ops/backend.h"
#include "fireq/ops/input_fit.h"
#include "fireq/quant/block.h"
#include "fireq/quant/fold_rope.h"
#include "fireq/quant/stream.h"

namespace fireq::quant {

struct CalibrationSpec {
  int64_t context = 2048;
  bool full_moments = false;
  std::optional<StreamSpec> follow;  // how the quantised model computes
  bool both_products = false;        // windows take turns: table, exact; else `products`
  Products products = Products::kTable;
};

class Calibration {
 public:
  // `ids` is cut into windows of spec.context, the short last one dropped; at least one window.
  // Token i of the stream starts as row ids[i] of `embedding` [V, D] (rotated already if the model
  // is). `fitter` is for tokens in `backend`'s memory. Errors: kInvalidArgument for too few ids or
  // an id outside the table.
  Calibration(Backend& backend, Fitter& fitter, const ModelConfig& config,
              std::span<const int32_t> ids, const CalibrationSpec& spec,
              const Matrix<float>& embedding, ThreadPool& pool);

  // The residual streams where the next block starts, on the host, and back: what a later process
  // needs to go on from here. Errors: kShapeMismatch.
  std::vector<Tensor> Streams() const;
  void SetStreams(const std::vector<Tensor>& streams);

  int64_t num_tokens() const { return float_.num_windows() * float_.context(); }

  // The float stream through the attention of `block`, which must outlive the block's steps; only
  // q and k may change from here on. Empty unless `look_at_keys`.
  KeyRanges StartBlock(Block<float>& block, int64_t layer, bool look_at_keys);
  // The same block as it is stored, linears still to come: its norms and CRS factors.
  void StartFollowing(const Block<float>& block, int64_t layer, const QuantisedInputs& quantised);

  // What goes into the linears behind `which`; in the order of BlockInput. Errors: kCorrupt naming
  // the layer and the input if an activation is not finite.
  std::unique_ptr<InputFit> Study(BlockInput which);
  // The linears behind `which`, as they are stored. Nothing if the quantised model is not followed.
  void Follow(BlockInput which, LinearSpec linears);
  void FinishBlock();

  // What goes into lm_head, behind the last block, if the quantised model is followed.
  std::unique_ptr<InputFit> StudyHead(const std::vector<float>& final_norm);

 private:
  void SetProducts(int64_t window);
  FitTokens FollowedTokens(BlockInput which, int64_t window, const ActTensor& ahead);

  Backend& backend_;
  Fitter& fitter_;
  const ModelConfig& config_;
  CalibrationSpec spec_;
  ThreadPool& pool_;
  RopeTable rope_;  // on the host, for post-RoPE statistics
  Stream float_;
  std::optional<Stream> quantised_;
  int64_t layer_ = 0;
  const Block<float>* block_ = nullptr;
};

}  // namespace fireq::quant
