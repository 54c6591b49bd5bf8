// Attention problems for tests: shapes, masks, inputs and what the plain kernel in double makes of them.
#pragma once
#include "kernels/cuda/plain/attention.h"
#include "tests/gpu_emulator/device_under_test.h"

namespace longhaul::test {

enum class MaskKind {
  full,       // every key
  causal,     // the queries are the last ones of the keys
  window,     // the last 21 of those
  packed,     // documents of 45 tokens
  ring,       // the keys are two pieces of a longer sequence, the queries lie between
  zigzag,     // queries and keys are the first and last quarter of a sequence
  dead_rows,  // causal, but every third query sees nothing
  dead_tiles  // most keys come after every query
};
std::string name_of(MaskKind kind);

struct AttentionCase {
  cuda::AttentionShape shape;
  std::int32_t window = 0;
  std::vector<std::int32_t> query_index, key_start, key_index;
  std::vector<bfloat16> q, k, v, dout;
  std::vector<double> out, log_sum_exp, dq, dk, dv;  // in double, from the rounded inputs

  AttentionCase(MaskKind kind, std::int32_t batch, std::int32_t heads, std::int32_t kv_heads, std::int32_t queries,
                std::int32_t keys, std::int32_t head_dim, unsigned seed = 7);
  std::string describe() const;
};

struct ForwardResult {
  std::vector<float> out, log_sum_exp;
};
/// With float32 output when asked for, else through bf16.
ForwardResult run_forward(const AttentionCase& problem, cuda::Type out_type, cuda::Implementation implementation);
/// Checks output and LSE against the plain kernel's.
void check_forward(const AttentionCase& problem, const ForwardResult& result);

struct BackwardOptions {
  cuda::Type type = cuda::Type::bfloat16;  // of every gradient
  bool accumulate = false;                 // onto ones
  bool float_out = false;                  // the forward's output is given in float32, as a ring would
  bool unordered = false;
  std::int32_t parts = 0;
};
/// As a ring does it: the keys in `blocks` blocks, forward with merges of fp32 partials, backward from the merged
/// output with gradients that accumulate.
struct BlockwiseResult;
BlockwiseResult run_blockwise(const AttentionCase& problem, int blocks, cuda::Implementation implementation);

struct BackwardResult {
  std::vector<float> dq, dk, dv;
};
struct BlockwiseResult {
  ForwardResult forward;
  BackwardResult backward;
};
BackwardResult run_backward(const AttentionCase& problem, BackwardOptions options, cuda::Implementation implementation);
void check_backward(const AttentionCase& problem, const BackwardResult& result);

}  // namespace longhaul::test
