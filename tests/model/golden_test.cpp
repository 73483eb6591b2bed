// Real models against golden outputs of independent float32 references. Skipped, visibly, without
// the data (FIREQ_TEST_DATA) or the model (FIREQ_TEST_MODEL: SmolLM2-135M-Instruct as GGUF).
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "fireq/backends/cpu/cpu_backend.h"
#include "fireq/engine/generate.h"
#include "fireq/eval/logit_stats.h"
#include "fireq/io/json.h"
#include "fireq/io/text_file.h"
#include "fireq/model/model.h"

namespace fireq::test {
namespace {

std::filesystem::path FromEnvironment(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";  // set but empty counts as not set
}

class SmolLm2 : public testing::Test {
 protected:
  void SetUp() override {
    data_ = FromEnvironment("FIREQ_TEST_DATA");
    const auto model = FromEnvironment("FIREQ_TEST_MODEL");
    if (data_.empty()) GTEST_SKIP() << "FIREQ_TEST_DATA is not set";
    if (model.empty()) GTEST_SKIP() << "FIREQ_TEST_MODEL is not set";
    backend_ = MakeCpuBackend({.num_threads = 0});
    model_ = LoadModel(*backend_, model);
  }

  std::filesystem::path data_;
  std::unique_ptr<Backend> backend_;
  Model model_;
};

TEST_F(SmolLm2, LogitsOfWikiText) {
  const auto golden = ReadJsonFile(data_ / "golden/smollm2/logits_wiki64.json");
  const std::vector<int32_t> ids = golden["ids"];
  Session session(*backend_, model_, {});
  Tensor logits;
  for (size_t t = 0; t < ids.size(); ++t) {
    logits = session.Append({&ids[t], 1});
    const float* row = logits.as<float>();
    for (size_t i = 0; i < 8; ++i)
      ASSERT_NEAR(row[golden["top_ids"][t][i].get<int>()], golden["top_logits"][t][i].get<double>(),
                  1e-3)
          << "position " << t;
    ASSERT_NEAR(LogSumExp(row, logits.num_elements()), golden["logsumexp"][t].get<double>(), 1e-3);
  }
  // An .npy file of version 1: magic, a header whose length stands at byte 8, then the floats.
  const std::string npy = ReadTextFile(data_ / "golden/smollm2/logits_wiki64_last.npy");
  const size_t header = 10 + static_cast<uint8_t>(npy[8]) + 256 * static_cast<uint8_t>(npy[9]);
  ASSERT_EQ(npy.size(), header + static_cast<size_t>(logits.size_bytes()));
  std::vector<float> expected(static_cast<size_t>(logits.num_elements()));
  std::memcpy(expected.data(), npy.data() + header, npy.size() - header);
  for (size_t v = 0; v < expected.size(); ++v)
    ASSERT_NEAR(logits.as<float>()[v], expected[v], 1e-3) << "token " << v;
}

TEST_F(SmolLm2, GreedyIdsWhereverTheChoiceIsClear) {
  const auto golden = ReadJsonFile(data_ / "golden/smollm2/greedy.json");
  int checked = 0;
  for (const auto& entry : golden) {
    std::vector<int32_t> ids = entry["prompt_ids"];
    const std::vector<int32_t> continuation = entry["continuation"];
    Session session(*backend_, model_, {});
    for (size_t t = 0; t < continuation.size(); ++t) {
      // The golden continuation is forced, so that one near tie does not end the comparison.
      const Tensor logits = session.Append(ids);
      if (entry["gap_to_second"][t].get<double>() >= 0.05) {
        ASSERT_EQ(ArgMax(logits.as<float>(), logits.num_elements()), continuation[t])
            << "prompt \"" << entry["prompt"].get<std::string>() << "\", token " << t;
        ++checked;
      }
      ids = {continuation[t]};
    }
  }
  EXPECT_GT(checked, 100);
}

TEST(Stories260K, GreedyContinuation) {
  const auto data = FromEnvironment("FIREQ_TEST_DATA");
  if (data.empty()) GTEST_SKIP() << "FIREQ_TEST_DATA is not set";
  const std::vector<int32_t> golden =
      ReadJsonFile(data / "golden/greedy.json")["stories260K_from_bos_128"];
  const auto backend = MakeCpuBackend({.num_threads = 1});
  const Model model = LoadModel(*backend, data / "models/stories260K");
  Session session(*backend, model, {});
  GenerateParams params;
  params.max_new_tokens = static_cast<int64_t>(golden.size()) - 1;
  const Generation out = Generate(session, {golden.data(), 1}, params);
  EXPECT_EQ(out.ids, std::vector<int32_t>(golden.begin() + 1, golden.end()));
}

}  // namespace
}  // namespace fireq::test
