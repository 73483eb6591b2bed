// A quantised checkpoint, config.json and tensors both from the input: opened whole or refused.
//
// Input: the length of config.json as two little-endian bytes, config.json, model.safetensors.
#include <algorithm>
#include <fstream>

#include "fireq/base/error.h"
#include "fireq/checkpoint/quantised_checkpoint.h"
#include "fireq/checkpoint/schema.h"
#include "tests/fuzz/fuzzing.h"

namespace {

namespace fs = std::filesystem;

const fs::path& Folder() {
  static const fs::path folder = [] {
    std::string name = (fs::temp_directory_path() / "fireq_fuzz_XXXXXX").string();
    fireq::Require(::mkdtemp(name.data()) != nullptr);
    std::atexit([] { fs::remove_all(Folder()); });
    return fs::path(name);
  }();
  return folder;
}

void WriteFile(const char* name, const uint8_t* data, size_t size) {
  std::ofstream(Folder() / name, std::ios::binary)
      .write(reinterpret_cast<const char*>(data), static_cast<std::streamsize>(size));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const size_t config_size = std::min<size_t>(data[0] | data[1] << 8, size - 2);
  WriteFile("config.json", data + 2, config_size);
  WriteFile("model.safetensors", data + 2 + config_size, size - 2 - config_size);
  try {
    const fireq::QuantisedCheckpoint checkpoint(Folder());
    for (int64_t layer = 0; layer < checkpoint.config().num_layers; ++layer) {
      for (const fireq::Linear linear : fireq::kLinears) {
        const std::string name = fireq::LinearName(layer, linear);
        if (checkpoint.IsExcluded(name)) continue;
        const fireq::WeightI4 stored = checkpoint.LoadLinear(name);
        fireq::Touch(stored.codes.data(), stored.codes.size_bytes());
      }
    }
    checkpoint.Load(fireq::kEmbeddingName);
  } catch (const fireq::Error&) {
  }
  return 0;
}
