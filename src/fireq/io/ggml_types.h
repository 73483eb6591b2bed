// The tensor types of GGUF files: block sizes of all, decoders of those that FireQ reads.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace fireq {

struct GgmlType {
  uint32_t id;
  std::string_view name;
  int64_t block_elements;  // along the fastest dimension, whose size is a multiple of it
  int64_t block_bytes;
  // F32 values of `num_blocks` blocks, each product and sum rounded on its own (as the Python
  // package gguf computes them); null: FireQ knows the size but not the meaning. `blocks` may have
  // any alignment.
  void (*decode)(const uint8_t* blocks, int64_t num_blocks, float* values);
};

// nullptr for an id that the format does not define.
const GgmlType* FindGgmlType(uint32_t id);

// "Q4_0, Q4_1, ...": those with a decoder.
std::string ReadableGgmlTypes();

}  // namespace fireq
