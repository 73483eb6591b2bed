#include "fireq/api/choose_recipe.h"

#include <algorithm>
#include <optional>

#include "fireq/api/held_out.h"
#include "fireq/model/model.h"

namespace fireq {
namespace {

constexpr int64_t kTrialTokens = 16384, kHeldOutTokens = 4096;

struct Candidate {
  const char* name;
  std::vector<std::string> settings;  // over `default`
};

// What the kernels serve at the price of the default, and what differs from model to model: which
// transform makes K fit for INT4, and whether rotating the residual stream pays.
const std::vector<Candidate>& Candidates() {
  static const std::vector<Candidate> candidates = {
      {"Hadamard of Q and K (the default)", {}},
      {"RPN and CRS", {"hadamard.qk=false", "rpn=true", "crs=true"}},
      {"RPN, CRS and Hadamard", {"rpn=true", "crs=true"}},
      {"the default without rotating the residual stream", {"rotate.residual=false"}},
  };
  return candidates;
}

struct TrialText {
  std::span<const int32_t> calibration, held_out;
  int64_t first_unseen = 0;
};

TrialText Split(std::span<const int32_t> ids, int64_t calibration_tokens, int64_t context) {
  const int64_t windows = std::min(std::ssize(ids), calibration_tokens) / context;
  const int64_t behind = (std::ssize(ids) - windows * context) / context;
  const int64_t wanted = std::max<int64_t>(kHeldOutTokens / context, 1);
  const int64_t held = behind > 0 ? std::min(behind, wanted) : 1;
  const int64_t first = behind > 0 ? windows : windows - 1;  // window where held-out text begins
  FIREQ_CHECK(first > 0, kInvalidArgument, "recipe auto needs two windows of ", context,
              " tokens of calibration text, one to calibrate and one to judge; there are ",
              ids.size(), " tokens");
  const int64_t used = std::min(first, std::max<int64_t>(kTrialTokens / context, 1));
  const auto part = [&](int64_t from, int64_t count) {
    return ids.subspan(static_cast<size_t>(from * context), static_cast<size_t>(count * context));
  };
  return {part(0, used), part(first, held), (first + held) * context};
}

// The trial's checkpoint, gone again whatever happens.
class TrialDirectory {
 public:
  explicit TrialDirectory(std::filesystem::path path) : path_(std::move(path)) {}
  ~TrialDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace

RecipeChoice ChooseRecipe(const quant::QuantizeJob& job, std::span<const int32_t> ids,
                          int64_t calibration_tokens, const std::vector<std::string>& settings) {
  const TrialText text = Split(ids, calibration_tokens, job.calibration_context);
  const Model reference = OpenModel(*job.backend, job.source->path());
  RecipeChoice out;
  out.first_unseen = text.first_unseen;
  out.reasons = {{"held_out_tokens", text.held_out.size()},
                 {"calibration_tokens", text.calibration.size()},
                 {"candidates", nlohmann::json::array()}};
  std::optional<double> least;
  for (const Candidate& candidate : Candidates()) {
    if (job.progress) job.progress(StrCat("trying: ", candidate.name), 0.0);
    quant::Recipe recipe = quant::BuiltinRecipe("default");
    for (const auto* list : {&candidate.settings, &settings})
      for (const std::string& setting : *list) quant::ApplySetting(recipe, setting);
    nlohmann::json entry{{"name", candidate.name}};
    const TrialDirectory directory(std::filesystem::path(job.target) += ".trial");
    quant::QuantizeJob trial = job;
    trial.recipe = recipe;
    trial.target = directory.path();
    trial.calibration_ids.assign(text.calibration.begin(), text.calibration.end());
    trial.progress = {};
    trial.measure = {};
    try {
      quant::Quantize(trial);
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kUnsupported) throw;
      entry["refused"] = error.what();
      out.reasons["candidates"].push_back(std::move(entry));
      continue;
    }
    const HeldOutResult result =
        MeasureHeldOut(*job.backend, OpenModel(*job.backend, directory.path()), reference,
                       text.held_out, job.calibration_context, job.pool->num_threads());
    const auto &table = *result.table.distance, &exact = *result.exact.distance;
    entry["kl_table"] = table.kl_mean;
    entry["kl_exact"] = exact.kl_mean;
    entry["kl_stderr"] = exact.kl_stderr;
    out.reasons["candidates"].push_back(std::move(entry));
    const double kl = 0.5 * (table.kl_mean + exact.kl_mean);
    if (least && kl >= *least) continue;
    least = kl;
    out.recipe = recipe;
    out.reasons["chosen"] = candidate.name;
  }
  FIREQ_CHECK(least.has_value(), kUnsupported,
              "recipe auto: no candidate fits the model: ", out.reasons.dump());
  return out;
}

}  // namespace fireq
