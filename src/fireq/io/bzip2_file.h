// Texts that are stored compressed by bzip2.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace fireq {

// All bytes that the bzip2 file `path` (one stream or several, one after the other) stands for.
// Errors: those of ReadTextFile; kCorrupt for bytes that are no bzip2 stream, a wrong checksum or
// a file that ends within a stream; kUnsupported if it unfolds to more than `max_bytes`.
std::string ReadBzip2File(const std::filesystem::path& path,
                          int64_t max_bytes = int64_t{256} << 20);

}  // namespace fireq
