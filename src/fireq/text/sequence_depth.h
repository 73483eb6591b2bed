// Sequence components of tokenizer.json (normalisers, pre-tokenizers, decoders, post-processors).
#pragma once

namespace fireq::text {

// A Sequence may hold Sequences, this deep at most.
inline constexpr int kMaxSequenceDepth = 16;

}  // namespace fireq::text
