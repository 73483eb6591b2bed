// Every tensor of a file that opens lies inside it.
#include "fireq/base/error.h"
#include "fireq/io/safetensors.h"
#include "tests/fuzz/fuzzing.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const fireq::MemoryFile memory(data, size);
  try {
    const fireq::SafetensorsFile file(memory.path());
    for (const auto& [name, entry] : file.entries()) {
      try {
        const fireq::Tensor tensor = file.Get(name);
        fireq::Require(tensor.size_bytes() == entry.size_bytes);
        fireq::Touch(tensor.data(), tensor.size_bytes());
      } catch (const fireq::Error&) {
      }
    }
  } catch (const fireq::Error&) {
  }
  return 0;
}
