#include "fireq/quant/fold_rotation.h"

#include <algorithm>

namespace fireq::quant {

template <class T>
void FoldNorms(Block<T>& block) {
  for (FloatLinear<T>* linear : {&block.q, &block.k, &block.v})
    ScaleColumns(linear->weight, block.attn_norm);
  for (FloatLinear<T>* linear : {&block.gate, &block.up})
    ScaleColumns(linear->weight, block.mlp_norm);
  std::fill(block.attn_norm.begin(), block.attn_norm.end(), T{1});
  std::fill(block.mlp_norm.begin(), block.mlp_norm.end(), T{1});
}

template <class T>
void RotateResidual(Block<T>& block, const Rotation& rotation, ThreadPool& pool) {
  for (FloatLinear<T>* linear : {&block.q, &block.k, &block.v, &block.gate, &block.up})
    rotation.RotateInput(linear->weight, 0, pool);
  for (FloatLinear<T>* linear : {&block.o, &block.down}) {
    rotation.RotateOutput(linear->weight, 0, pool);
    if (!linear->bias.empty()) rotation.ApplyToRow(linear->bias.data());
  }
}

template <class T>
void RotateV(Block<T>& block, const ModelConfig& config, const Rotation& rotation,
             ThreadPool& pool) {
  for (int64_t head = 0; head < config.num_kv_heads; ++head) {
    const int64_t begin = head * config.head_dim;
    rotation.RotateOutput(block.v.weight, begin, pool);
    if (!block.v.bias.empty()) rotation.ApplyToRow(block.v.bias.data() + begin);
  }
  for (int64_t head = 0; head < config.num_heads; ++head)
    rotation.RotateInput(block.o.weight, head * config.head_dim, pool);
}

template void FoldNorms<float>(Block<float>&);
template void FoldNorms<double>(Block<double>&);
template void RotateResidual<float>(Block<float>&, const Rotation&, ThreadPool&);
template void RotateResidual<double>(Block<double>&, const Rotation&, ThreadPool&);
template void RotateV<float>(Block<float>&, const ModelConfig&, const Rotation&, ThreadPool&);
template void RotateV<double>(Block<double>&, const ModelConfig&, const Rotation&, ThreadPool&);

}  // namespace fireq::quant
