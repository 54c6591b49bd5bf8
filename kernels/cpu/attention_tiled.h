// Blocked attention on the inner kernels of some instruction set: the tile loops. See attention.h for what they
// compute.
#pragma once
#include "kernels/cpu/attention.h"
#include "kernels/cpu/attention_tile_kernels.h"

namespace longhaul::cpu {

/// Why no blocked kernel takes this problem, whatever the instruction set; empty when they do.
std::string tiled_attention_refusal(const AttentionProblem&, DType dtype);

std::size_t tiled_forward_scratch_bytes(const AttentionTileKernels&, const AttentionProblem&, int threads);
std::size_t tiled_backward_scratch_bytes(const AttentionTileKernels&, const AttentionProblem&, DType dq_dtype,
                                         int threads);
void tiled_forward(const AttentionTileKernels&, const AttentionProblem&, const AttentionForward&, ThreadPool&,
                   void* scratch);
void tiled_backward(const AttentionTileKernels&, const AttentionProblem&, const AttentionBackward&, ThreadPool&,
                    void* scratch);

}  // namespace longhaul::cpu
