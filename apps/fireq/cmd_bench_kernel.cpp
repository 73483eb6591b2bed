// fireq bench gemm|ffn|attention: programs of their own (bench/), because they call kernels and
// what they are compared with beneath the ops interface, of which this program knows nothing.
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "command.h"

namespace fireq::app {

namespace fs = std::filesystem;

namespace {

void RunKernelBench(const std::string& name, std::vector<std::string> arguments) {
  const std::string program = FindBenchProgram(name).string();
  std::vector<char*> argv{const_cast<char*>(program.c_str())};
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  execv(program.c_str(), argv.data());
  Throw(ErrorCode::kIo, StrCat("cannot run ", program, ": ", std::strerror(errno)));
}

void AddKernel(CLI::App& bench, const std::string& name, const std::string& program,
               const std::vector<std::string>& arguments, const std::string& help) {
  CLI::App* command = bench.add_subcommand(name, help);
  command->group("Kernels (of builds with CUDA; each has its own --help)");
  command->set_help_flag();
  command->prefix_command();
  command->callback([=] {
    std::vector<std::string> all = arguments;
    for (const std::string& argument : command->remaining()) all.push_back(argument);
    RunKernelBench(program, std::move(all));
  });
}

}  // namespace

// In a build tree libexec is beside the program, in an installation beside its bin.
fs::path FindBenchProgram(const std::string& name) {
  const fs::path here = fs::read_symlink("/proc/self/exe").parent_path();
  for (const fs::path& libexec : {here / "libexec", here.parent_path() / "libexec"}) {
    fs::path program = libexec / "fireq" / name;
    if (fs::exists(program)) return program;
  }
  Throw(ErrorCode::kUnsupported,
        StrCat("this build has no ", name,
               ": it needs CUDA (cmake --preset hopper) and the option FIREQ_BENCH"));
}

void AddKernelBenches(CLI::App& bench) {
  AddKernel(bench, "gemm", "bench_gemm", {},
            "INT4 x FP8 GEMMs beside cuBLASLt FP8 and FP16 and a plain read of the weights");
  AddKernel(bench, "ffn", "bench_gemm", {"--ffn"}, "The FFN block beside cuBLASLt FP16");
  AddKernel(bench, "attention", "bench_attention", {},
            "Attention over the INT4 cache beside a plain read of it");
}

}  // namespace fireq::app
