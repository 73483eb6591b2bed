#include "fireq/eval/task_data.h"

#include <bzlib.h>
#include <gmock/gmock.h>

#include <cstdlib>

#include "tests/io/io_testing.h"

namespace fireq {
namespace {

using testing::HasSubstr;

TEST(TaskData, QuestionsAreAskedForTheirAnswer) {
  const TemporaryDirectory directory;
  WriteBytes(directory / "piqa.jsonl",
             R"({"query": "Question: ice box\n", "choices": ["water", "s\u00f6da 2"], "gold": 1})"
             "\n");
  const Task task = LoadTask(directory.path(), "piqa");
  ASSERT_EQ(task.items.size(), 1u);
  EXPECT_EQ(task.scoring, TaskScoring::kLikeliest);
  EXPECT_EQ(task.items[0].gold, 1);
  ASSERT_EQ(task.items[0].candidates.size(), 2u);
  EXPECT_EQ(task.items[0].candidates[0].context, "Question: ice box\nAnswer:");
  EXPECT_EQ(task.items[0].candidates[0].continuation, " water");
  EXPECT_EQ(task.items[0].candidates[0].length, 5);
  EXPECT_EQ(task.items[0].candidates[1].length, 6);  // characters, not bytes
}

TEST(TaskData, ContextsShareOneContinuation) {
  const TemporaryDirectory directory;
  WriteBytes(directory / "winogrande.jsonl",
             R"({"context_options": ["so Ann", "so Bob "], "continuation": "won.", "gold": 0})");
  const Task task = LoadTask(directory.path(), "winogrande");
  EXPECT_EQ(task.items[0].candidates[0].context, "so Ann");
  EXPECT_EQ(task.items[0].candidates[0].continuation, " won.");
  EXPECT_EQ(task.items[0].candidates[1].context, "so Bob");  // its space went over
  EXPECT_EQ(task.items[0].candidates[1].continuation, " won.");
}

TEST(TaskData, TheLastWordIsWrittenGreedily) {
  const TemporaryDirectory directory;
  WriteBytes(directory / "lambada_openai.jsonl",
             "{\"context\": \"I see the\", \"continuation\": \"sea\"}\n"
             "{\"context\": \"saw the\", \"continuation\": \"\\n\\nrecorder\"}\n");
  const Task task = LoadTask(directory.path(), "lambada_openai");
  EXPECT_EQ(task.scoring, TaskScoring::kGreedy);
  EXPECT_EQ(task.items[0].candidates[0].continuation, " sea");
  EXPECT_EQ(task.items[1].candidates[0].continuation, "\n\nrecorder");
}

void WriteHellaswag(const std::filesystem::path& directory, std::string text) {
  std::string out(text.size() + 600, '\0');
  unsigned size = static_cast<unsigned>(out.size());
  ASSERT_EQ(BZ2_bzBuffToBuffCompress(out.data(), &size, text.data(),
                                     static_cast<unsigned>(text.size()), 1, 0, 0),
            BZ_OK);
  WriteBytes(directory / "hellaswag_val_full.txt.bz2", std::string_view(out).substr(0, size));
}

TEST(TaskData, EndingsStandInSixLines) {
  const TemporaryDirectory directory;
  WriteHellaswag(directory.path(), "Roof: he\n3\na\nb\nc\ndd\r\nGym: she\n0\ne\nf\ng\nh\n");
  const Task task = LoadTask(directory.path(), "hellaswag");
  ASSERT_EQ(task.items.size(), 2u);
  EXPECT_EQ(task.items[0].gold, 3);
  EXPECT_EQ(task.items[0].candidates[3].continuation, " dd");
  EXPECT_EQ(task.items[1].candidates[0].context, "Gym: she");

  const auto error = [&](const std::string& text) {
    WriteHellaswag(directory.path(), text);
    return ErrorOf([&] { LoadTask(directory.path(), "hellaswag"); }, ErrorCode::kCorrupt);
  };
  EXPECT_THAT(error("Roof: he\n3\na\nb\nc\nd\nGym: she\n0\ne\n"), HasSubstr("bz2:7: "));
  EXPECT_THAT(error("Roof: he\n4\na\nb\nc\nd\n"), HasSubstr("'4'"));
  EXPECT_THAT(error("Roof: he\n1x\na\nb\nc\nd\n"), HasSubstr("'1x'"));
  EXPECT_THAT(error("Roof: he\n1\na\n\nc\nd\n"), HasSubstr("empty"));
}

TEST(TaskData, RefusesBrokenLinesByFileAndLine) {
  const TemporaryDirectory directory;
  const std::string good = R"({"query": "q", "choices": ["a", "b"], "gold": 0})";
  const auto error = [&](const std::string& line) {
    WriteBytes(directory / "boolq.jsonl", good + "\n" + line + "\n" + good + "\n");
    const std::string message =
        ErrorOf([&] { LoadTask(directory.path(), "boolq", 1); }, ErrorCode::kCorrupt);
    EXPECT_THAT(message, HasSubstr("boolq.jsonl:2"));
    return message;
  };
  error("{");
  error("");
  error("[1]");
  EXPECT_THAT(error(R"({"choices": ["a", "b"], "gold": 0})"), HasSubstr("query"));
  EXPECT_THAT(error(R"({"query": "q", "choices": ["a", 1], "gold": 0})"), HasSubstr("choices"));
  EXPECT_THAT(error(R"({"query": "q", "choices": ["a"], "gold": 0})"), HasSubstr("got 1"));
  EXPECT_THAT(error(R"({"query": "q", "choices": ["a", "b"], "gold": 2})"), HasSubstr("gold"));
  EXPECT_THAT(error(R"({"query": "q", "choices": ["a", "b"], "gold": "0"})"), HasSubstr("gold"));
  error(R"({"query": "q", "choices": ["a", " "], "gold": 0})");
  error("{\"query\": \"q\xff\", \"choices\": [\"a\", \"b\"], \"gold\": 0}");
}

TEST(TaskData, RefusesUnknownNamesMissingAndEmptyFiles) {
  const TemporaryDirectory directory;
  EXPECT_THAT(ErrorOf([&] { LoadTask(directory.path(), "mmlu"); }, ErrorCode::kInvalidArgument),
              HasSubstr("arc_easy"));
  EXPECT_THAT(ErrorOf([&] { LoadTask(directory.path(), "piqa"); }, ErrorCode::kNotFound),
              HasSubstr("piqa.jsonl"));
  WriteBytes(directory / "piqa.jsonl", "");
  ErrorOf([&] { LoadTask(directory.path(), "piqa"); }, ErrorCode::kCorrupt);
  ErrorOf([&] { LoadTask(directory.path(), "piqa", -1); }, ErrorCode::kInvalidArgument);
}

// The official evaluation splits, as many items as they are known to have.
TEST(TaskData, RealFiles) {
  const char* data = std::getenv("FIREQ_TEST_DATA");
  if (data == nullptr || *data == 0) GTEST_SKIP() << "FIREQ_TEST_DATA is not set";
  const std::filesystem::path tasks = std::filesystem::path(data) / "tasks";
  const std::pair<const char*, size_t> expected[] = {
      {"piqa", 1838},       {"arc_easy", 2376},   {"arc_challenge", 1172}, {"boolq", 3270},
      {"hellaswag", 10042}, {"winogrande", 1267}, {"lambada_openai", 5153}};
  for (const auto& [name, count] : expected) {
    EXPECT_EQ(LoadTask(tasks, name).items.size(), count) << name;
  }
  EXPECT_EQ(LoadTask(tasks, "piqa", 10).items.size(), 10u);
  EXPECT_EQ(TaskNames().size(), std::size(expected));
}

}  // namespace
}  // namespace fireq
