// What the host side of every kernel family shares: errors, and the launchers that api.cu puts into the table.
#pragma once
#include <stdexcept>
#include <string>

#include "kernels/cuda/api.h"
#include "kernels/cuda/gpu.h"

namespace longhaul::cuda {

/// Becomes the caller's last_error().
struct CallError : std::runtime_error {
  using std::runtime_error::runtime_error;
};
inline void require(bool condition, const std::string& message) {
  if (!condition) throw CallError(message);
}
inline bool aligned(const void* pointer) {
  return reinterpret_cast<std::uintptr_t>(pointer) % 16 == 0;
}
template <typename T>
T divide_up(T a, T b) {
  return (a + b - 1) / b;
}
inline gpu::Stream native(Stream stream) {
  return static_cast<gpu::Stream>(stream);
}

// attention.cu
std::size_t attention_mask_bytes(std::int32_t batch, std::int32_t queries, std::int32_t keys);
void attention_mask(const AttentionMask& mask, void* to, Stream stream);
std::int64_t attention_shared_bytes(std::int32_t head_dim, std::int32_t backward);
void attention_forward(const AttentionForward& call, Stream stream);
std::size_t attention_backward_workspace(const AttentionShape& shape);
void attention_backward(const AttentionBackward& call, Stream stream);
// attention_hopper.cu; `workspace` as attention.cu laid it out
void attention_forward_hopper(const AttentionForward& call, Stream stream);
std::size_t attention_backward_hopper_bytes(const AttentionShape& shape);
void attention_backward_hopper(const AttentionBackward& call, int parts, void* workspace, Stream stream);
// device.cu, or the emulator's
bool has_hopper_kernels();

// memory-bound families: norm.cu, rope.cu, activation.cu, embedding.cu, loss_head.cu, optimizer.cu
void softmax_merge(const SoftmaxMerge& call, Stream stream);
void norm_forward(const NormForward& call, Stream stream);
std::size_t norm_workspace(std::int32_t columns);
void norm_backward(const NormBackward& call, Stream stream);
void rope_table(const RopeTable& call, Stream stream);
void rope(const Rope& call, Stream stream);
void activation(const ElementwiseActivation& call, Stream stream);
void activation_gradient(const ElementwiseActivationGradient& call, Stream stream);
void embedding(const Embedding& call, Stream stream);
std::size_t embedding_workspace(std::int64_t tokens, std::int32_t vocabulary);
void embedding_gradient(const EmbeddingGradient& call, Stream stream);
void loss_tile(const LossTile& call, Stream stream);
void adamw(const AdamW& call, Stream stream);
std::size_t sum_of_squares_workspace();
void sum_of_squares(const void* x, Type type, std::int64_t count, std::int32_t accumulate, double* result,
                    void* workspace, Stream stream);
void cast(const void* from, Type from_type, void* to, Type to_type, std::int64_t count, Stream stream);
void strided_copy(const StridedCopy& call, Stream stream);
void load_strided_copy();  // gpu::load

// the generic kernels: elementwise.cu, copy_table.cu, scalar.cu, norm_generic.cu, loss_rows.cu, optimizer.cu,
// optimizer_steps.cu, attention_generic.cu
void add(const Add& call, Stream stream);
void scale(const Scale& call, Stream stream);
void add_bias(const AddBias& call, Stream stream);
std::size_t column_sums_workspace(std::int64_t rows, std::int64_t columns);
void column_sums(const ColumnSums& call, Stream stream);
void expand_heads(const Heads& call, Stream stream);
void reduce_heads(const Heads& call, Stream stream);
void add_rows(const AddRows& call, Stream stream);
void copy_table(const CopyEntry* entries, std::int32_t count, Stream stream);
void copy_entries(const CopyEntry* entries, std::int32_t count, std::int64_t largest_bytes, Stream stream);
void scalar_constant(const ScalarConstant& call, Stream stream);
void scalar_product(const ScalarProduct& call, Stream stream);
void clip_coefficient(const ClipCoefficient& call, Stream stream);
void count_valid(const CountValid& call, Stream stream);
void generic_norm(const GenericNorm& call, Stream stream);
std::size_t generic_norm_workspace(std::int64_t rows, std::int64_t columns);
void generic_norm_gradient(const GenericNormGradient& call, Stream stream);
void loss_rows(const LossRows& call, Stream stream);
void loss_sum(const LossSum& call, Stream stream);
std::int64_t optimizer_blocks(OptimizerTensor* tensors, std::int32_t count);
void optimizer_step(const OptimizerStep& call, Stream stream);
std::int64_t squares_blocks(SquaresTensor* tensors, std::int32_t count);
void sums_of_squares(const SquaresTable& call, Stream stream);
void generic_attention_forward(const GenericAttentionForward& call, Stream stream);
void attention_delta(const AttentionDelta& call, Stream stream);
void generic_attention_backward(const GenericAttentionBackward& call, Stream stream);
void generic_merge(const GenericMerge& call, Stream stream);

// collectives.cu
std::size_t peer_workspace_bytes(std::int64_t payload_bytes);
void peer_barrier(const PeerGroup& group, std::uint32_t epoch, Stream stream);
void peer_all_to_all(const PeerGroup& group, std::uint32_t epoch, const void* send, void* receive,
                     std::int64_t bytes_per_peer, Stream stream);
void peer_all_gather(const PeerGroup& group, std::uint32_t epoch, const void* send, void* receive, std::int64_t bytes,
                     Stream stream);
void peer_reduce_scatter(const PeerGroup& group, std::uint32_t epoch, const float* send, float* receive,
                         std::int64_t count_per_rank, Stream stream);
void peer_all_reduce(const PeerGroup& group, std::uint32_t epoch, float* data, std::int64_t count, Stream stream);
void peer_sequence_to_heads(const PeerGroup& group, std::uint32_t epoch, std::int32_t batch, std::int32_t rows,
                            std::int32_t heads, std::int32_t head_bytes, const void* send, void* receive,
                            Stream stream);
void peer_heads_to_sequence(const PeerGroup& group, std::uint32_t epoch, std::int32_t batch, std::int32_t rows,
                            std::int32_t heads, std::int32_t head_bytes, const void* send, void* receive,
                            Stream stream);

}  // namespace longhaul::cuda
