// Small files as strings.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace fireq {

// All bytes of `path`. Errors: kNotFound if there is no such file, kIo if it cannot be read or is
// not a regular file, kUnsupported above `max_bytes`; each names the path.
std::string ReadTextFile(const std::filesystem::path& path, int64_t max_bytes = int64_t{1} << 30);

}  // namespace fireq
