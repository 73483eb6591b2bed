#include "fireq/eval/task_data.h"

#include <algorithm>
#include <charconv>
#include <span>

#include "fireq/base/error.h"
#include "fireq/io/bzip2_file.h"
#include "fireq/io/json.h"
#include "fireq/io/text_file.h"

namespace fireq {
namespace {

constexpr std::string_view kWhitespace = " \t\n\r\f\v";
constexpr int64_t kMaxChoices = 64;

// One line of a file, or one record of several.
struct Record {
  std::string place;  // "piqa.jsonl:12"
  std::span<const std::string_view> lines;
};

struct Format {
  std::string_view name;
  std::string_view file;
  TaskScoring scoring;
  int64_t lines_per_item;
  TaskItem (*read)(const Record&);
};

std::string_view TrimRight(std::string_view text) {
  return text.substr(0, text.find_last_not_of(kWhitespace) + 1);
}

int64_t CountCharacters(std::string_view text) {
  return std::count_if(text.begin(), text.end(),
                       [](char c) { return (static_cast<uint8_t>(c) & 0xC0) != 0x80; });
}

// White space at the end of a context goes over to the continuation, as tokenizers join it with the
// word that follows; one space parts the two where neither has any.
TaskCandidate MakeCandidate(const Record& record, std::string_view context, std::string_view text) {
  FIREQ_CHECK(text.find_first_not_of(kWhitespace) != text.npos, kCorrupt, record.place,
              ": a continuation is empty");
  const std::string_view trimmed = TrimRight(context);
  FIREQ_CHECK(!trimmed.empty(), kCorrupt, record.place, ": the context is empty");
  std::string gap(context.substr(trimmed.size()));
  if (gap.empty() && kWhitespace.find(text.front()) == kWhitespace.npos) gap = " ";
  return {std::string(trimmed), gap + std::string(text), CountCharacters(text)};
}

TaskItem MakeChoice(const Record& record, std::string_view context,
                    const std::vector<std::string>& choices, int64_t gold) {
  TaskItem item;
  for (const std::string& choice : choices)
    item.candidates.push_back(MakeCandidate(record, context, choice));
  item.gold = gold;
  return item;
}

int64_t CheckedChoices(const JsonObject& object, const std::string& key,
                       const std::vector<std::string>& choices) {
  const int64_t count = static_cast<int64_t>(choices.size());
  FIREQ_CHECK(count >= 2 && count <= kMaxChoices, kCorrupt, object.PlaceOf(key), ": expected 2 to ",
              kMaxChoices, " choices, got ", count);
  return object.Int("gold", 0, count - 1);
}

// {"query", "choices", "gold"}: the question, asked for its answer.
TaskItem ReadQuestion(const Record& record) {
  const auto json = ParseJson(record.lines[0], record.place);
  const JsonObject object(json, record.place);
  const std::vector<std::string> choices = object.Strings("choices");
  const int64_t gold = CheckedChoices(object, "choices", choices);
  const std::string query = object.String("query");
  return MakeChoice(record, std::string(TrimRight(query)) + "\nAnswer:", choices, gold);
}

// {"context_options", "continuation", "gold"}: one continuation behind each of several contexts.
// Only the continuation is scored (partial evaluation).
TaskItem ReadContexts(const Record& record) {
  const auto json = ParseJson(record.lines[0], record.place);
  const JsonObject object(json, record.place);
  const std::vector<std::string> contexts = object.Strings("context_options");
  TaskItem item;
  item.gold = CheckedChoices(object, "context_options", contexts);
  const std::string continuation = object.String("continuation");
  for (const std::string& context : contexts)
    item.candidates.push_back(MakeCandidate(record, context, continuation));
  return item;
}

// {"context", "continuation"}: a passage and its last word.
TaskItem ReadLastWord(const Record& record) {
  const auto json = ParseJson(record.lines[0], record.place);
  const JsonObject object(json, record.place);
  TaskItem item;
  item.candidates.push_back(
      MakeCandidate(record, object.String("context"), object.String("continuation")));
  return item;
}

// Six lines: context, gold, four endings.
TaskItem ReadEndings(const Record& record) {
  const std::string_view label = record.lines[1];
  int64_t gold = -1;
  const auto parsed = std::from_chars(label.data(), label.data() + label.size(), gold);
  FIREQ_CHECK(parsed.ec == std::errc() && parsed.ptr == label.data() + label.size() && gold >= 0 &&
                  gold < 4,
              kCorrupt, record.place, ": expected a label 0..3 in the second line, got '",
              label.substr(0, 60), "'");
  return MakeChoice(record, record.lines[0],
                    std::vector<std::string>(record.lines.begin() + 2, record.lines.end()), gold);
}

constexpr Format kFormats[] = {
    {"piqa", "piqa.jsonl", TaskScoring::kLikeliest, 1, ReadQuestion},
    {"arc_easy", "arc_easy.jsonl", TaskScoring::kLikeliest, 1, ReadQuestion},
    {"arc_challenge", "arc_challenge.jsonl", TaskScoring::kLikeliest, 1, ReadQuestion},
    {"boolq", "boolq.jsonl", TaskScoring::kLikeliest, 1, ReadQuestion},
    {"hellaswag", "hellaswag_val_full.txt.bz2", TaskScoring::kLikeliest, 6, ReadEndings},
    {"winogrande", "winogrande.jsonl", TaskScoring::kLikeliest, 1, ReadContexts},
    {"lambada_openai", "lambada_openai.jsonl", TaskScoring::kGreedy, 1, ReadLastWord},
};

const Format& FormatOf(std::string_view name) {
  std::string known;
  for (const Format& format : kFormats) {
    if (format.name == name) return format;
    known += (known.empty() ? "" : ", ") + std::string(format.name);
  }
  Throw(ErrorCode::kInvalidArgument, StrCat("unknown task '", name, "'; there are ", known));
}

// Without line ends; an empty text after the last line end is no line.
std::vector<std::string_view> SplitLines(std::string_view text) {
  std::vector<std::string_view> lines;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    if (line.ends_with('\r')) line.remove_suffix(1);
    lines.push_back(line);
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return lines;
}

}  // namespace

std::vector<std::string> TaskNames() {
  std::vector<std::string> names;
  for (const Format& format : kFormats) names.emplace_back(format.name);
  return names;
}

Task LoadTask(const std::filesystem::path& directory, std::string_view name, int64_t limit) {
  FIREQ_CHECK(limit >= 0, kInvalidArgument, "limit of items must be >= 0, got ", limit);
  const Format& format = FormatOf(name);
  const std::filesystem::path path = directory / format.file;
  const std::string text =
      path.extension() == ".bz2" ? ReadBzip2File(path) : ReadTextFile(path, int64_t{256} << 20);
  const std::vector<std::string_view> lines = SplitLines(text);
  const size_t step = static_cast<size_t>(format.lines_per_item);

  Task task{std::string(name), format.scoring, {}};
  for (size_t i = 0; i < lines.size(); i += step) {
    const std::string place = StrCat(path.string(), ":", i + 1);
    FIREQ_CHECK(lines.size() - i >= step, kCorrupt, place, ": the last item has ", lines.size() - i,
                " of ", step, " lines");
    task.items.push_back(format.read({place, std::span(lines).subspan(i, step)}));
  }
  FIREQ_CHECK(!task.items.empty(), kCorrupt, path.string(), ": no items");
  if (limit > 0 && limit < static_cast<int64_t>(task.items.size()))
    task.items.resize(static_cast<size_t>(limit));
  return task;
}

}  // namespace fireq
