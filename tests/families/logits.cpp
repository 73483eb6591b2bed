// logits MODEL OUT PREFILL ID...: runs the first PREFILL ids in one step, each later one by itself,
// and writes the logits behind every step to OUT, raw F32. A tool of families_test.py.
#include <cstdlib>
#include <fstream>

#include "../support/tool_main.h"
#include "fireq/backends/cpu/cpu_backend.h"
#include "fireq/engine/session.h"

namespace {

void Run(int argc, char** argv) {
  FIREQ_CHECK(argc >= 5, kInvalidArgument, "usage: logits MODEL OUT PREFILL ID...");
  std::vector<int32_t> ids;
  for (int i = 4; i < argc; ++i) ids.push_back(std::atoi(argv[i]));
  const size_t prefill = std::strtoul(argv[3], nullptr, 10);
  FIREQ_CHECK(prefill >= 1 && prefill <= ids.size(), kInvalidArgument, "prefill of ", prefill,
              " of ", ids.size(), " ids");
  const auto backend = fireq::MakeCpuBackend({.num_threads = 0});
  const fireq::Model model = fireq::LoadModel(*backend, argv[1]);
  fireq::Session session(*backend, model, {});
  std::ofstream out(argv[2], std::ios::binary);
  for (size_t at = 0; at < ids.size();) {
    const size_t count = at == 0 ? prefill : 1;
    const fireq::Tensor logits = session.Append({ids.data() + at, count});
    out.write(static_cast<const char*>(logits.data()), logits.size_bytes());
    at += count;
  }
  FIREQ_CHECK(out.flush().good(), kIo, "cannot write ", argv[2]);
}

}  // namespace

int main(int argc, char** argv) { return fireq::test::ToolMain(Run, argc, argv); }
