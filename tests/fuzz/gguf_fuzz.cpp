// Every tensor of a file that opens can be read or is refused; so can its model configuration.
#include "fireq/base/error.h"
#include "fireq/checkpoint/gguf_source.h"
#include "fireq/io/gguf.h"
#include "tests/fuzz/fuzzing.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const fireq::MemoryFile memory(data, size);
  try {
    const auto file = fireq::GgufFile::Open(memory.path());
    for (const auto& [name, entry] : file->entries()) {
      try {
        const fireq::Tensor tensor = file->Get(name);
        fireq::Touch(tensor.data(), tensor.size_bytes());
      } catch (const fireq::Error&) {
      }
    }
    fireq::GgufModelConfig(*file);
  } catch (const fireq::Error&) {
  }
  return 0;
}
