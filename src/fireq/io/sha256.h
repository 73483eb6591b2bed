// SHA-256 of bytes and files.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

namespace fireq {

// Feed bytes, then take the digest once. Source: FIPS 180-4.
class Sha256 {
 public:
  void Update(std::span<const uint8_t> bytes);
  // 64 lower-case hexadecimal digits; the object is used up.
  std::string HexDigest();

 private:
  void Compress(const uint8_t* block);

  std::array<uint32_t, 8> state_ = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                    0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<uint8_t, 64> pending_ = {};
  size_t num_pending_ = 0;
  uint64_t num_bytes_ = 0;
};

// Errors: kNotFound, kIo.
std::string Sha256OfFile(const std::filesystem::path& path);

}  // namespace fireq
