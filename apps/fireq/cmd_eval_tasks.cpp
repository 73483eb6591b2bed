#include <cstdio>
#include <memory>

#include "command.h"

namespace fireq::app {
namespace {

struct EvalTasksOptions {
  CommonOptions common;
  std::string model;
  TasksRequest request;
  ProductsMode products = ProductsMode::kServed;
};

std::string Table(const std::vector<TaskScore>& scores) {
  std::string out = "task             acc     acc_norm  stderr  items\n";
  for (const TaskScore& score : scores) {
    char line[128];
    std::snprintf(line, sizeof line, "%-15s  %.4f  %.4f    %.4f  %lld\n", score.task.c_str(),
                  score.acc, score.acc_norm, score.acc_stderr, static_cast<long long>(score.n));
    out += line;
  }
  return out;
}

void RunEvalTasks(const EvalTasksOptions& options) {
  TasksRequest request = options.request;
  LoadOptions load;
  load.runtime = options.common.Runtime();
  load.products = options.products;
  LanguageModel model = LanguageModel::Load(options.model, load);
  std::vector<TaskScore> scores;
  {
    Progress progress;
    double tasks_done = 0;
    request.progress = [&](std::string_view task, int64_t done, int64_t total) {
      const double share = static_cast<double>(done) / static_cast<double>(total);
      progress.Update(StrCat(task, ": ", done, " of ", total),
                      (tasks_done + share) / static_cast<double>(request.tasks.size()));
      if (done == total) ++tasks_done;
    };
    scores = model.EvaluateTasks(request);
  }
  if (!options.common.json) {
    PrintOut(Table(scores));
    return;
  }
  nlohmann::ordered_json tasks = nlohmann::ordered_json::object();
  for (const TaskScore& score : scores)
    tasks[score.task] = {{"acc", score.acc},
                         {"acc_norm", score.acc_norm},
                         {"stderr", score.acc_stderr},
                         {"n", score.n}};
  PrintJson({{"tasks", tasks}});
}

}  // namespace

void AddEvalTasks(CLI::App& eval) {
  CLI::App* command =
      eval.add_subcommand("tasks", "Accuracy on zero-shot tasks, by log-likelihood");
  auto options = std::make_shared<EvalTasksOptions>();
  command->add_option("MODEL", options->model, kModelHelp)->required();
  command->add_option("--data", options->request.data_dir, "Directory of the tasks' files")
      ->required()
      ->type_name("DIR");
  command
      ->add_option("--tasks", options->request.tasks,
                   "Any of piqa, arc_easy, arc_challenge, boolq, hellaswag, winogrande, "
                   "lambada_openai")
      ->required()
      ->delimiter(',')
      ->type_name("NAME,...");
  command->add_option("--limit", options->request.limit, "Only the first N items (0: all)")
      ->type_name("N");
  AddProducts(*command, options->products);
  options->common.AddTo(*command);
  command->footer(
      "Example:\n  fireq eval tasks out --data tasks --tasks piqa,arc_easy --limit 200\n");
  command->callback([options] { RunEvalTasks(*options); });
}

}  // namespace fireq::app
