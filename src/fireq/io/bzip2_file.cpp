#include "fireq/io/bzip2_file.h"

#include <bzlib.h>

#include <algorithm>
#include <array>

#include "fireq/base/error.h"
#include "fireq/io/text_file.h"

namespace fireq {
namespace {

constexpr int64_t kMaxCompressedBytes = int64_t{256} << 20;  // well within bz_stream's 32 bits

// One bz_stream, ended on every path.
class Decompressor {
 public:
  explicit Decompressor(const std::string& place) : place_(place) {
    const int status = BZ2_bzDecompressInit(&stream_, /*verbosity=*/0, /*small=*/0);
    FIREQ_CHECK(status == BZ_OK, kOutOfMemory, place_, ": bzip2 cannot start, status ", status);
  }
  ~Decompressor() { BZ2_bzDecompressEnd(&stream_); }
  Decompressor(const Decompressor&) = delete;
  Decompressor& operator=(const Decompressor&) = delete;

  // Appends what the stream at `begin` stands for to `out`; returns where the stream ends.
  size_t Unfold(std::string& compressed, size_t begin, int64_t max_bytes, std::string& out) {
    stream_.next_in = compressed.data() + begin;
    stream_.avail_in = static_cast<unsigned>(compressed.size() - begin);
    int status = BZ_OK;
    while (status != BZ_STREAM_END) {
      stream_.next_out = block_.data();
      stream_.avail_out = static_cast<unsigned>(block_.size());
      status = BZ2_bzDecompress(&stream_);
      const size_t at = compressed.size() - stream_.avail_in;
      FIREQ_CHECK(status == BZ_OK || status == BZ_STREAM_END, kCorrupt, place_,
                  ": not a bzip2 stream at byte ", at, ", status ", status);
      const size_t made = block_.size() - stream_.avail_out;
      FIREQ_CHECK(status == BZ_STREAM_END || made > 0 || stream_.avail_in > 0, kCorrupt, place_,
                  ": ends within a bzip2 stream, at byte ", at);
      out.append(block_.data(), made);
      FIREQ_CHECK(static_cast<int64_t>(out.size()) <= max_bytes, kUnsupported, place_,
                  ": unfolds to more than ", max_bytes, " bytes");
    }
    return compressed.size() - stream_.avail_in;
  }

 private:
  const std::string& place_;
  bz_stream stream_{};
  std::array<char, 1 << 16> block_;
};

}  // namespace

std::string ReadBzip2File(const std::filesystem::path& path, int64_t max_bytes) {
  const std::string place = path.string();
  std::string compressed = ReadTextFile(path, kMaxCompressedBytes);
  FIREQ_CHECK(!compressed.empty(), kCorrupt, place, ": empty, not a bzip2 stream");
  std::string out;
  for (size_t at = 0; at < compressed.size();) {
    Decompressor decompressor(place);
    at = decompressor.Unfold(compressed, at, max_bytes, out);
  }
  return out;
}

}  // namespace fireq
