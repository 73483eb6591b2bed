#include "fireq/quant/pipeline.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <future>
#include <memory>
#include <optional>
#include <utility>

#include "fireq/checkpoint/quantised_checkpoint.h"
#include "fireq/checkpoint/schema.h"
#include "fireq/io/text_file.h"
#include "fireq/quant/block_io.h"
#include "fireq/quant/calibrate.h"
#include "fireq/quant/fold_cas.h"
#include "fireq/quant/fold_rotation.h"
#include "fireq/quant/host_fit.h"
#include "fireq/quant/job_identity.h"
#include "fireq/quant/model_rotation.h"
#include "fireq/quant/progressive.h"
#include "fireq/quant/report_html.h"
#include "fireq/quant/stored_config.h"

namespace fireq::quant {
namespace {

bool ScalesKeys(const Recipe& recipe) {
  return recipe.rpn || recipe.crs || recipe.balance_qk || recipe.smooth_qk;
}

bool ClipsByOutput(const Recipe& recipe) {
  return recipe.weights_grid == WeightGrid::kProgressive && recipe.weights_search;
}

bool NeedsKeyRanges(const Recipe& recipe) { return ScalesKeys(recipe) || recipe.shift_k > 0.0; }

class Pipeline {
 public:
  explicit Pipeline(const QuantizeJob& job)
      : job_(job),
        recipe_(job.recipe),
        config_(job.source->config()),
        quant_(MakeQuantConfig(config_, recipe_)),
        rotation_(config_, recipe_),
        writer_(job.target, rotation_.StoredConfig(), quant_),
        host_fitter_(*job.backend, *job.pool),
        fitter_(job.fitter ? job.fitter : &host_fitter_),
        saved_(WorkDirectory(writer_.target()),
               JobIdentity(*job.source, rotation_.StoredConfig(), quant_, job.calibration_ids,
                           job.calibration_context, job.fitter ? "gpu" : "cpu"),
               job.save) {}

  Report Run() {
    FIREQ_CHECK(!NeedsCalibration(recipe_) || !job_.calibration_ids.empty(), kInvalidArgument,
                "the recipe needs calibration text, and there is none");
    report_.recipe = ToJson(recipe_);
    report_.choice = job_.choice;
    report_.excluded = quant_.excluded;
    WriteOuterTensors();
    ResumeSavedBlocks();
    for (int64_t layer = saved_.blocks(); layer < config_.num_layers; ++layer) {
      Progress(StrCat("block ", layer + 1, " of ", config_.num_layers), layer);
      Block<float> block = TakeBlock(layer);
      if (calibration_) StartCalibration(block, layer);
      WriteSmallTensors(block, layer);
      QuantizeBehind(BlockInput::kAttention, {&block.q, &block.k, &block.v});
      QuantizeBehind(BlockInput::kAttentionOut, {&block.o});
      QuantizeBehind(BlockInput::kMlp, {&block.gate, &block.up});
      QuantizeBehind(BlockInput::kMlpHidden, {&block.down});
      if (calibration_) calibration_->FinishBlock();
      SaveBlock(layer);
    }
    if (CorrectsHead()) WriteHead();
    Progress("writing", config_.num_layers);
    const std::filesystem::path& checkpoint = writer_.Complete();
    if (job_.measure) {
      calibration_.reset();
      Progress("measuring", config_.num_layers);
      report_.held_out = job_.measure(checkpoint);
    }
    report_.seconds = Seconds();
    const nlohmann::json report = ToJson(report_);
    writer_.AddFile("quantisation_report.json", report.dump());
    writer_.AddFile("quantisation_report.html", ReportHtml(report));
    writer_.Finish();
    saved_.Remove();
    return std::move(report_);
  }

 private:
  static std::filesystem::path WorkDirectory(std::filesystem::path target) {
    return target += ".resume";
  }

  // Of all runs that this checkpoint took.
  double Seconds() const {
    return earlier_seconds_ +
           std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

  void Progress(std::string_view step, int64_t layers_done) const {
    if (job_.progress)
      job_.progress(step,
                    static_cast<double>(layers_done) / static_cast<double>(config_.num_layers));
  }

  // Embedding, final norm, lm_head and the files beside; starts calibration on the embedding.
  void WriteOuterTensors() {
    for (const std::filesystem::path& file : job_.source->AuxiliaryFiles())
      writer_.AddFile(file.filename().string(), ReadTextFile(file));
    for (const auto& [name, text] : job_.extra_files) writer_.AddFile(name, text);
    Progress("embedding", 0);
    const OuterTensors outer = rotation_.LoadOuter(*job_.source, *job_.pool);
    writer_.Write(kEmbeddingName, Bf16Tensor(outer.embedding, *job_.pool));
    writer_.Write(kFinalNormName, F32Tensor(outer.final_norm, {config_.hidden}));
    if (!rotation_.StoredConfig().tied_embeddings && !CorrectsHead())
      writer_.Write(kLmHeadName,
                    Bf16Tensor(rotation_.LoadHead(*job_.source, *job_.pool), *job_.pool));
    final_norm_ = outer.final_norm;
    if (!NeedsCalibration(recipe_)) return;
    calibration_.emplace(*job_.backend, *fitter_, config_, job_.calibration_ids,
                         MakeCalibrationSpec(), outer.embedding, *job_.pool);
    report_.calibration_tokens = calibration_->num_tokens();
  }

  // lm_head stays BF16, so that what rounding did to its input can be made up for at no cost.
  bool CorrectsHead() const {
    return recipe_.follow && recipe_.follow_head && !rotation_.StoredConfig().tied_embeddings;
  }

  void WriteHead() {
    Progress("lm_head", config_.num_layers);
    const Matrix<float> head = rotation_.LoadHead(*job_.source, *job_.pool);
    const std::unique_ptr<InputFit> fit = calibration_->StudyHead(final_norm_);
    fit->Correct(recipe_.follow_head_damping, head, "lm_head");
    writer_.Write(kLmHeadName, Bf16Tensor(fit->Corrected(head), *job_.pool));
  }

  // What a killed run had finished, if anything.
  void ResumeSavedBlocks() {
    const int64_t blocks = saved_.blocks();
    if (blocks == 0) return;
    Progress(StrCat("going on after block ", blocks, " of ", config_.num_layers), blocks);
    for (int64_t layer = 0; layer < blocks; ++layer)
      for (const auto& [name, tensor] : saved_.LoadBlock(layer)) writer_.Write(name, tensor);
    if (calibration_) {
      std::vector<Tensor> streams;
      for (const auto& [name, tensor] : saved_.LoadStreams()) streams.push_back(tensor);
      calibration_->SetStreams(streams);
    }
    Report report = ParseReport(saved_.report(), "saved work");
    report_.linears = std::move(report.linears);
    report_.keys = std::move(report.keys);
    earlier_seconds_ = report.seconds;
  }

  void SaveBlock(int64_t layer) {
    saved_.AddBlock(layer, std::exchange(block_tensors_, {}));
    if (!saved_.IsTimeToSave() || layer + 1 == config_.num_layers) return;
    NamedTensors streams;
    if (calibration_) {
      char name[32];
      for (Tensor& window : calibration_->Streams()) {
        std::snprintf(name, sizeof(name), "window-%06zu", streams.size());  // in order by name
        streams.emplace_back(name, std::move(window));
      }
    }
    report_.seconds = Seconds();
    saved_.Save(layer + 1, ToJson(report_), streams);
  }

  // A tensor of the block in hand, into the checkpoint and the saved work.
  void Write(const std::string& name, Tensor tensor) {
    writer_.Write(name, tensor);
    block_tensors_.emplace_back(name, std::move(tensor));
  }

  CalibrationSpec MakeCalibrationSpec() const {
    CalibrationSpec spec;
    spec.context = job_.calibration_context;
    spec.full_moments = recipe_.weights_solver == WeightSolver::kGptq || ClipsByOutput(recipe_);
    if (recipe_.follow) spec.follow = {ArithmeticOf(recipe_), recipe_.hadamard_qk};
    spec.both_products = recipe_.weights_products == ErrorProducts::kMean;
    if (recipe_.weights_products == ErrorProducts::kExact) spec.products = Products::kExact;
    return spec;
  }

  bool IsExcluded(const FloatLinear<float>& linear) const {
    return std::find(quant_.excluded.begin(), quant_.excluded.end(), linear.name) !=
           quant_.excluded.end();
  }

  // In F32, with what needs no statistics folded in.
  Block<float> MakeBlock(int64_t layer, ThreadPool& pool) const {
    Block<float> block = LoadBlock(*job_.source, layer, pool);
    FoldCas(block, config_, recipe_);
    rotation_.Fold(block, pool);
    return block;
  }

  // Where another device solves, the host makes the next block meanwhile.
  Block<float> TakeBlock(int64_t layer) {
    Block<float> block = next_block_.valid() ? next_block_.get() : MakeBlock(layer, *job_.pool);
    if (job_.fitter != nullptr && layer + 1 < config_.num_layers)
      next_block_ = std::async(std::launch::async, [this, next = layer + 1] {
        ThreadPool pool(job_.pool->num_threads());
        return MakeBlock(next, pool);
      });
    return block;
  }

  void StartCalibration(Block<float>& block, int64_t layer) {
    const bool folds = NeedsKeyRanges(recipe_);
    const KeyRanges keys = calibration_->StartBlock(block, layer, /*look_at_keys=*/folds);
    if (folds) FoldKeys(block, layer, keys);
    calibration_->StartFollowing(block, layer,
                                 {!IsExcluded(block.q), !IsExcluded(block.o),
                                  !IsExcluded(block.gate), !IsExcluded(block.down)});
  }

  void WriteSmallTensors(const Block<float>& block, int64_t layer) {
    const auto write = [&](std::string_view name, const std::vector<float>& values, Shape shape) {
      if (!values.empty()) Write(LayerTensorName(layer, name), F32Tensor(values, std::move(shape)));
    };
    write(kInputNorm, block.attn_norm, {config_.hidden});
    write(kPostNorm, block.mlp_norm, {config_.hidden});
    write(kQNorm, block.q_norm, {config_.head_dim});
    write(kKNorm, block.k_norm, {config_.head_dim});
    write(kCrsQFactor, block.crs_q, {config_.num_kv_heads, config_.head_dim});
    write(kKeyShift, block.key_shift, {config_.num_kv_heads, config_.head_dim});
    write(kCrsKFactor, block.crs_k, {config_.num_kv_heads, config_.head_dim});
  }

  void FoldKeys(Block<float>& block, int64_t layer, const KeyRanges& keys) {
    const std::vector<float> factors = FoldRope(block, config_, recipe_, keys);
    if (!ScalesKeys(recipe_)) return;
    KeyReport& report = report_.keys.emplace_back(KeyReport{layer, keys.channel_max, {}});
    for (size_t i = 0; i < factors.size(); ++i)
      report.channel_max_after.push_back(keys.channel_max[i] * factors[i]);
  }

  // Linears that share one input.
  void QuantizeBehind(BlockInput which, std::initializer_list<FloatLinear<float>*> linears) {
    const FloatLinear<float>& first = **linears.begin();
    const bool excluded = IsExcluded(first);
    std::unique_ptr<InputFit> fit;
    if (calibration_) fit = calibration_->Study(which);
    InputKnowledge input;
    if (!excluded) input = StudyInput(fit.get(), recipe_, first);
    std::optional<Matrix<float>> moments;
    if (ClipsByOutput(recipe_)) moments = fit->WithinGroups();
    LinearSpec spec;
    spec.gate_up = which == BlockInput::kMlp;
    for (FloatLinear<float>* linear : linears) {
      LinearPart part{.name = linear->name};
      if (!linear->bias.empty()) {
        part.bias = F32Tensor(linear->bias, {linear->weight.rows});
        Write(linear->name + ".bias", part.bias);
      }
      if (excluded) {
        part.weight = Bf16Tensor(
            recipe_.weights_grid == WeightGrid::kProgressive
                ? RoundProgressively(linear->weight, moments ? &*moments : nullptr, *job_.pool)
                : linear->weight,
            *job_.pool);
        Write(linear->name + ".weight", part.weight);
      } else {
        part.i4 = WriteQuantized(*linear, input);
      }
      spec.parts.push_back(std::move(part));
    }
    if (calibration_) calibration_->Follow(which, std::move(spec));
  }

  WeightI4 WriteQuantized(const FloatLinear<float>& linear, const InputKnowledge& input) {
    WeightI4 stored = QuantizeLinear(linear, input, recipe_, *job_.pool);
    writer_.WriteLinear(linear.name, stored);
    for (auto& part : PartsOf(stored, linear.name)) block_tensors_.push_back(std::move(part));
    report_.linears.push_back({linear.name, stored.n, stored.k, stored.t,
                               MeasureErrors(linear, stored, input.importance, *job_.pool)});
    return stored;
  }

  const QuantizeJob& job_;
  const Recipe& recipe_;
  const ModelConfig& config_;
  const QuantConfig quant_;
  const ModelRotation rotation_;
  QuantisedCheckpointWriter writer_;
  HostFitter host_fitter_;
  Fitter* const fitter_;
  SavedWork saved_;  // behind the writer, which holds the lock
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  double earlier_seconds_ = 0.0;
  std::vector<float> final_norm_;
  NamedTensors block_tensors_;
  std::optional<Calibration> calibration_;
  Report report_;
  std::future<Block<float>> next_block_;
};

}  // namespace

bool NeedsCalibration(const Recipe& recipe) {
  return NeedsKeyRanges(recipe) || NeedsInputMoments(recipe);
}

Report Quantize(const QuantizeJob& job) {
  CheckRecipe(job.recipe);
  return Pipeline(job).Run();
}

}  // namespace fireq::quant
