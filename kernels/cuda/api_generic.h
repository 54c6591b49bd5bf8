// Calls of the generic kernels: any size, element by element. Whole programs run on them where the fast kernels refuse,
// and they are the last candidate of every op. Types bfloat16 and float32 unless a comment says otherwise; arithmetic
// in float32, rounded once. Tensors are contiguous and aligned to their elements.
#pragma once
#include <cstddef>
#include <cstdint>

namespace longhaul::cuda {

enum class Type : std::int32_t { bfloat16 = 0, float32 = 1, float64 = 2 };

constexpr int kMaximumInputs = 256;

struct Add {  // y = x[0] + x[1] + ..., in this order; float64 too
  std::int64_t count;
  Type type;
  std::int32_t inputs;  ///< up to kMaximumInputs
  const void* x[kMaximumInputs];
  void* y;  ///< may be one of x
};
struct Scale {  // y = factor x
  std::int64_t count;
  Type type;
  float factor;
  const void* x;
  void* y;               ///< may be x
  const double* square;  ///< not null: y = factor x / max(sqrt(*square), 1e-7)
};
struct AddBias {  // y [rows, columns] = x + bias [columns]
  std::int64_t rows, columns;
  Type type, bias_type;
  const void *x, *bias;
  void* y;  ///< may be x
};
struct ColumnSums {  // out [columns] = the sum of the rows of x [rows, columns]
  std::int64_t rows, columns;
  Type type, out_type;
  const void* x;
  void* out;
  void* workspace;  ///< column_sums_workspace bytes
};
/// `many` heads share `few`: head i of the many belongs to head i / (many / few). expand_heads: y[many] = x[few];
/// reduce_heads: y[few] = the sum of x[many], in their order.
struct Heads {
  std::int64_t rows;
  std::int32_t many, few, head_dim;
  Type type, out_type;  ///< of x and y; alike when heads are expanded
  const void* x;
  void* y;
};
struct AddRows {  // x [batch, rows, width], rows from `first` on, += part [batch, part_rows, width]
  std::int64_t batch, rows, part_rows, first, width;
  Type type;
  const void* part;
  void* x;
};
/// extent[0] x extent[1] runs of `run_bytes` bytes each; strides in bytes; any alignment. from null: zeros.
struct CopyEntry {
  const void* from;
  void* to;
  std::int64_t extent[2], run_bytes, from_stride[2], to_stride[2];
};

// ---- float64 scalars that stay on the device
struct ScalarConstant {
  double value;
  double* to;
};
struct ScalarProduct {
  const double *a, *b;
  double* to;
};
struct ClipCoefficient {  // norm = sqrt(sum); coefficient = min(1, max_norm / (norm + 1e-6)), 1 when max_norm <= 0
  const double* sum;
  double max_norm;
  double *coefficient, *norm;
};
struct CountValid {  // to = how many labels are not negative
  std::int64_t count;
  const std::int32_t* label;
  double* to;
};

// ---- norms over the last dimension of [rows, columns]; weights are (weight + weight_offset)
enum class Norm : std::int32_t { rms = 0, layer = 1, center = 2 };  // center: y = x - mean, no weights
struct GenericNorm {
  std::int64_t rows, columns;
  Norm norm;
  float epsilon, weight_offset;
  Type type, weight_type;
  const void *x, *weight, *bias;  ///< bias of a layer norm
  void* y;                        ///< may be x
};
struct GenericNormGradient {
  std::int64_t rows, columns;
  Norm norm;  ///< not center
  float epsilon, weight_offset;
  Type type, weight_type;
  const void *x, *weight, *dy;
  void* dx;  ///< may be dy
  float *dweight, *dbias;
  void* workspace;  ///< generic_norm_workspace bytes
};

/// Rows of logits to their losses, and where `gradient` is not null to the gradients of gradient_scale times their sum.
struct LossRows {
  std::int64_t rows, vocabulary, row_stride, gradient_stride;
  const void* logits;
  Type type;       ///< of logits
  void* gradient;  ///< of their type it may be the logits themselves
  Type gradient_type;
  const std::int32_t* label;     ///< negative: ignored, loss 0, gradient 0
  float logits_scale, soft_cap;  ///< as of LossTile
  const double* gradient_scale;
  float* loss;  ///< [rows]
};
struct LossSum {  // result = (accumulate: result +) the sum of loss, in float64
  std::int64_t rows;
  const float* loss;
  std::int32_t accumulate;
  double* result;
};

// ---- many tensors in one launch. Rows lie in device memory; first_block is set by the call that counts their blocks.
enum class OptimizerRule : std::int32_t { adamw = 0, sgd = 1, muon_momentum = 2, muon_step = 3 };
/// As kernels/cpu has them: adamw.h, sgd.h, muon.h. Parameters are float32.
struct OptimizerTensor {
  std::int64_t first_block, count;
  float* parameter;      ///< in place; of muon_momentum the update, written
  void* first_moment;    ///< adamw, muon_momentum, sgd with momentum; else null
  void* second_moment;   ///< adamw; else null
  const void* gradient;  ///< of muon_step the update
  void* copy;            ///< not null: the new parameter in bfloat16
  Type moment_type, gradient_type;
  double weight_decay, scale;  ///< scale of muon_step
};
struct OptimizerStep {
  OptimizerRule rule;
  std::int32_t tensors, nesterov;
  std::int64_t blocks;            ///< optimizer_blocks of the table
  const OptimizerTensor* tensor;  ///< [tensors], in device memory; null: `one` alone
  OptimizerTensor one;
  const double *coefficient, *learning_rate, *step;  ///< in device memory; what the rule has no use for may be null
  double beta1, beta2, epsilon;                      ///< beta1 is the momentum of sgd and muon
};
struct SquaresTensor {  // result = the sum of squares of x, a float64
  std::int64_t first_block, count;
  const void* x;
  double* result;
  Type type;
  std::int32_t blocks;  ///< set with first_block
};
struct SquaresTable {
  std::int32_t tensors;
  std::int64_t blocks;          ///< squares_blocks of the table
  const SquaresTensor* tensor;  ///< [tensors], in device memory
  double* workspace;            ///< [blocks]
};

// ---- attention of any head_dim up to 256: q, out [b, s, h, d]; k, v [b, t, g, d]; log_sum_exp [b, h, s];
// delta [b, s, h]
struct GenericAttention {
  std::int32_t batch, queries, keys, heads, kv_heads, head_dim, window;
  float scale, soft_cap;                        ///< soft_cap c > 0: a score x becomes c tanh(x / c)
  const std::int32_t *query_index, *key_start;  ///< [b, s], see AttentionMask
  const std::int32_t* key_index;                ///< [b, t]
  Type type;                                    ///< of q, k, v, dout
  const void *q, *k, *v;
};
struct GenericAttentionForward {
  GenericAttention problem;
  Type out_type;
  void* out;
  float* log_sum_exp;
};
struct AttentionDelta {  // delta = the sum over d of out dout
  std::int32_t batch, queries, heads, head_dim;
  Type out_type, dout_type;
  const void *out, *dout;
  float* delta;
};
struct GenericAttentionBackward {
  GenericAttention problem;
  const void* dout;
  const float *log_sum_exp, *delta;
  Type dq_type, dkv_type;
  void *dq, *dk, *dv;
  std::int32_t accumulate;  ///< add to what is there
};
struct GenericMerge {  // as SoftmaxMerge, of any head_dim, and not only in place
  std::int32_t batch, rows, heads, head_dim;
  const float *out_a, *log_sum_exp_a, *out_b, *log_sum_exp_b;
  float *out, *log_sum_exp;  ///< may be out_a and log_sum_exp_a
};

}  // namespace longhaul::cuda
