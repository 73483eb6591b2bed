// What the ranks of a model compute of requests: served together by an engine a rank, and each in a
// session of its own.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "fireq/engine/engine.h"
#include "fireq/engine/session.h"

namespace fireq::test {

using Ids = std::vector<int32_t>;
using Logits = std::vector<float>;

// Of one rank. Nothing is compared while ranks compute: one that gave up would leave the others
// waiting.
struct RequestsOfRank {
  std::map<Ids, Logits> logits;  // behind these ids, as steps of several requests had them
  std::vector<Ids> ids;          // chosen for each request in those steps
  std::vector<Ids> largest;      // and where nobody looks at logits
  std::map<Ids, Logits> logits_alone;
  std::vector<Ids> ids_alone;
};

// Keeps what it chooses from.
class LogitKeeper final : public TokenSampler {
 public:
  LogitKeeper(Backend& backend, std::map<Ids, Logits>& logits)
      : backend_(backend), logits_(logits), sampler_(backend) {}
  std::unique_ptr<ChosenTokens> Start(const Tensor& logits, std::span<const SampleRow> rows,
                                      const Tensor& ids) override {
    const Tensor host = backend_.Download(logits);
    const int64_t vocab = host.dim(1);
    for (size_t i = 0; i < rows.size(); ++i) {
      const float* row = host.as<float>() + static_cast<int64_t>(i) * vocab;
      logits_[{rows[i].history.begin(), rows[i].history.end()}] = {row, row + vocab};
    }
    return sampler_.Start(logits, rows, ids);
  }

 private:
  Backend& backend_;
  std::map<Ids, Logits>& logits_;
  BackendTokenSampler sampler_;
};

// All prompts at once, `count` new ids each.
inline std::vector<Ids> ServeTogether(Backend& backend, const Model& model,
                                      const EngineOptions& options, const std::vector<Ids>& prompts,
                                      int64_t count, std::unique_ptr<TokenSampler> sampler) {
  Engine engine(backend, model, options, std::move(sampler));
  std::vector<Ids> out(prompts.size());
  for (size_t i = 0; i < prompts.size(); ++i)
    engine.Submit({.prompt = prompts[i], .max_new_tokens = count}, [&out, i](const TokenEvent& e) {
      if (e.token) out[i].push_back(e.token->id);
    });
  while (engine.Step()) {
  }
  return out;
}

// A rank's part, greedy and batch-invariant; all ranks call it at the same time.
inline RequestsOfRank RunRequests(Backend& backend, const Model& model, const RunnerOptions& limits,
                                  const std::vector<Ids>& prompts, int64_t count) {
  RequestsOfRank out;
  EngineOptions options;
  options.runner = limits;
  options.runner.products = Products::kTable;
  options.runner.reduction = Reduction::kBatchInvariant;
  out.largest = ServeTogether(backend, model, options, prompts, count, nullptr);
  options.run_ahead = RunAhead::kNever;  // else histories have stand-ins
  out.ids = ServeTogether(backend, model, options, prompts, count,
                          std::make_unique<LogitKeeper>(backend, out.logits));
  for (const Ids& prompt : prompts) {
    Session session(backend, model,
                    {.products = Products::kTable, .reduction = Reduction::kBatchInvariant});
    Ids next = prompt, chosen;
    for (int64_t i = 0; i < count; ++i) {
      const Tensor logits = session.Append(next);
      const float* first = logits.as<float>();
      const float* last = first + logits.num_elements();
      out.logits_alone[session.ids()] = {first, last};
      next = {static_cast<int32_t>(std::max_element(first, last) - first)};
      chosen.push_back(next[0]);
    }
    out.ids_alone.push_back(std::move(chosen));
  }
  return out;
}

// The same bits alone and together, and on every rank.
inline void ExpectTheSameOnAllRanks(const std::vector<RequestsOfRank>& ranks, size_t num_ids) {
  const RequestsOfRank& first = ranks[0];
  for (const RequestsOfRank& rank : ranks) {
    EXPECT_EQ(rank.ids, first.ids_alone);
    EXPECT_EQ(rank.largest, first.ids_alone);
    EXPECT_EQ(rank.ids_alone, first.ids_alone);
    EXPECT_EQ(rank.logits_alone.size(), num_ids);
    EXPECT_EQ(rank.logits.size(), num_ids);
    size_t differ = 0;
    for (const auto& [ids, alone] : first.logits_alone) {
      const auto same = [&](const std::map<Ids, Logits>& others) {
        const auto found = others.find(ids);
        return found != others.end() &&
               std::memcmp(found->second.data(), alone.data(), alone.size() * sizeof(float)) == 0;
      };
      differ += !same(rank.logits) || !same(rank.logits_alone);
    }
    EXPECT_EQ(differ, 0u) << "of " << num_ids << " rows of logits";
  }
}

}  // namespace fireq::test
