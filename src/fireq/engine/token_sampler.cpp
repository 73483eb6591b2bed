#include "fireq/engine/token_sampler.h"

namespace fireq {

std::vector<TokenChoice> HostTokenSampler::Sample(const Tensor& logits,
                                                  std::span<const SampleRow> rows) {
  const Tensor host = backend_.Download(logits);
  const size_t vocab = static_cast<size_t>(host.dim(1));
  std::vector<TokenChoice> choices;
  for (size_t r = 0; r < rows.size(); ++r)
    choices.push_back(sampler_.Choose(*rows[r].params, {host.as<float>() + r * vocab, vocab},
                                      rows[r].history, rows[r].draw));
  return choices;
}

}  // namespace fireq
