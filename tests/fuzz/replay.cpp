// Runs a fuzz target without a fuzzer, as an ordinary test: over its corpus, over every prefix of
// the corpus's small files, and over a fixed number of random mutations of them.
//
//   NAME_replay FOLDER [MUTATIONS [SEED]]      the same numbers give the same inputs
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

void RunOne(const std::string& bytes, size_t size) {
  LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(bytes.data()), size);
}

std::vector<std::string> ReadFolder(const char* folder) {
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder))
    if (entry.is_regular_file()) paths.push_back(entry.path());
  std::sort(paths.begin(), paths.end());
  std::vector<std::string> files;
  for (const auto& path : paths) {
    std::ifstream file(path, std::ios::binary);
    files.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  return files;
}

class Mutator {
 public:
  Mutator(const std::vector<std::string>& files, uint32_t seed) : files_(files), rng_(seed) {}

  std::string Next() {
    std::string bytes = Any();
    for (size_t edits = 1 + Below(4); edits > 0; --edits) Edit(bytes);
    return bytes;
  }

 private:
  size_t Below(size_t end) { return end == 0 ? 0 : rng_() % end; }
  const std::string& Any() { return files_[Below(files_.size())]; }

  // Part of a text, mostly a short one.
  std::string Piece(const std::string& bytes) {
    const size_t begin = Below(bytes.size());
    return bytes.substr(begin, 1 + Below(Below(3) == 0 ? bytes.size() : 16));
  }

  void Edit(std::string& bytes) {
    const size_t at = Below(bytes.size() + 1);
    switch (Below(6)) {
      case 0:  // a bit
        if (at < bytes.size()) bytes[at] = static_cast<char>(bytes[at] ^ (1 << Below(8)));
        break;
      case 1:  // a byte, mostly one that parsers look at
        if (at < bytes.size())
          bytes[at] = Below(2) == 0 ? "\0\xFF{}[]\",:0-<>%|"[Below(16)] : static_cast<char>(rng_());
        break;
      case 2:
        bytes.erase(at, Below(3) == 0 ? Below(bytes.size()) : Below(16));
        break;
      case 3:
        bytes.insert(at, Piece(bytes));
        break;
      case 4:
        bytes.insert(at, Piece(Any()));
        break;
      default: {  // a number near the end of its type
        const uint64_t number = ~uint64_t{0} >> Below(64);
        for (size_t i = 0; i < 8 && at + i < bytes.size(); ++i)
          bytes[at + i] = static_cast<char>(number >> 8 * i);
      }
    }
  }

  const std::vector<std::string>& files_;
  std::mt19937 rng_;
};

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> files =
      argc > 1 ? ReadFolder(argv[1]) : std::vector<std::string>();
  const long mutations = argc > 2 ? std::atol(argv[2]) : 0;
  const auto seed = static_cast<uint32_t>(argc > 3 ? std::atol(argv[3]) : 1);
  for (const std::string& bytes : files) {
    RunOne(bytes, bytes.size());
    // Truncation is the commonest damage.
    for (size_t size = 0; size < bytes.size() && bytes.size() <= 4096; ++size) RunOne(bytes, size);
  }
  if (files.empty()) return 1;
  Mutator mutator(files, seed);
  for (long i = 0; i < mutations; ++i) {
    const std::string bytes = mutator.Next();
    RunOne(bytes, bytes.size());
  }
  std::printf("%zu files, %ld mutations of seed %u\n", files.size(), mutations, seed);
  return 0;
}
