// ids MODEL < TEXTS: reads a JSON array of texts and writes an array of their token ids, special
// tokens neither added nor read. A tool of mistral_test.py.
#include <iostream>
#include <iterator>

#include "../support/tool_main.h"
#include "fireq/api/text_tools.h"
#include "fireq/base/error.h"
#include "fireq/io/json.h"

namespace {

void Run(int argc, char** argv) {
  FIREQ_CHECK(argc == 2, kInvalidArgument, "usage: ids MODEL < TEXTS");
  const fireq::TextTools tools = fireq::LoadTextTools(argv[1]);
  const std::string input(std::istreambuf_iterator<char>(std::cin), {});
  nlohmann::json out = nlohmann::json::array();
  for (const auto& text : fireq::ParseJson(input, "standard input")) {
    out.push_back(tools.tokenizer.Encode(text.get_ref<const std::string&>(),
                                         {.add_special = false, .parse_special = false}));
  }
  std::cout << out << "\n";
}

}  // namespace

int main(int argc, char** argv) { return fireq::test::ToolMain(Run, argc, argv); }
