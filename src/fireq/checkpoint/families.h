// The model families FireQ runs, in one table: adding one starts with a line here (CONTRIBUTING).
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace fireq {

// What config.json and GGUF leave unsaid because it is fixed by the family.
struct Family {
  std::string_view model_type;    // config.json's model_type
  std::string_view architecture;  // config.json's architectures[0]
  // general.architecture of GGUF files; empty if such files name another family.
  std::string_view gguf_architecture;
  bool always_qkv_bias;  // else "attention_bias" decides, for q, k, v and o together
  bool qk_norm;          // RMSNorm on each head of Q and K
  // GGUF stores the rows of q and k permuted for interleaved RoPE.
  bool gguf_permutes_qk;
  // A sliding window applies only where "use_sliding_window" is true; else whenever it is given.
  bool sliding_window_needs_switch;
  int64_t default_sliding_window;  // tokens if config.json has no such key; 0: none
};

std::span<const Family> Families();

// Throw kUnsupported, naming `place`, the unknown value and the supported ones.
const Family& FamilyOfConfig(std::string_view architecture, std::string_view model_type,
                             std::string_view place);
const Family& FamilyOfGguf(std::string_view gguf_architecture, std::string_view place);

}  // namespace fireq
