// Attention over visible intervals, forward and backward, without any S x S tensor.
//
// A key is visible to a query when  max(key_start[q], window ? query_index[q] - window + 1 : 0) <= key_index[k] and
// key_index[k] <= query_index[q]: causal, sliding-window and packed documents are all this. The index arrays may be any
// permutation (chunks dealt out to ranks, blocks of a rotation, padding); nothing depends on where a token lies in a
// buffer.
//
//   weight[q][k] = exp(s - log_sum_exp[q]) for visible keys, 0 for others;   out[q] = sum_k weight[q][k] v[k]
//   s = scale q.k, or with a soft cap c   c tanh(scale q.k / c)
//
// A row that sees no key has out 0 and log_sum_exp -infinity, and gives and receives no gradient.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/dtype.h"

namespace longhaul {
class ThreadPool;
}

namespace longhaul::cpu {

struct InstructionSet;

struct AttentionProblem {
  std::int64_t batch = 1;
  std::int64_t queries = 0;  ///< per sequence
  std::int64_t keys = 0;     ///< per sequence
  std::int64_t heads = 1;
  std::int64_t kv_heads = 1;  ///< divides heads; query head h reads kv head h / (heads / kv_heads)
  std::int64_t head_dim = 0;
  std::int64_t window = 0;                    ///< keys that a query sees, itself counted; 0: no limit
  double scale = 1;                           ///< of the logits, usually 1 / sqrt(head_dim)
  double soft_cap = 0;                        ///< of the scaled logits; 0: none
  const std::int32_t* query_index = nullptr;  ///< [batch, queries]
  const std::int32_t* key_index = nullptr;    ///< [batch, keys], each below 2^31 - 1
  const std::int32_t* key_start = nullptr;    ///< [batch, queries]
};

/// Contiguous row-major arrays. `dtype` is float64, float32 or bfloat16; `out_dtype` is dtype or float32 (never float32
/// with float64).
struct AttentionForward {
  DType dtype = DType::float32;
  const void* q = nullptr;  ///< [batch, queries, heads, head_dim]
  const void* k = nullptr;  ///< [batch, keys, kv_heads, head_dim]
  const void* v = nullptr;  ///< [batch, keys, kv_heads, head_dim]
  DType out_dtype = DType::float32;
  void* out = nullptr;          ///< [batch, queries, heads, head_dim]
  void* log_sum_exp = nullptr;  ///< [batch, heads, queries] float; double when dtype is float64
};

/// `delta` and `log_sum_exp` are those of the whole softmax: for one block of several, of the merged output. A
/// gradient's dtype is dtype or float32; gradients that accumulate are in the arithmetic type (float32, or float64 when
/// dtype is float64).
struct AttentionBackward {
  DType dtype = DType::float32;
  const void* q = nullptr;  ///< shapes as in AttentionForward
  const void* k = nullptr;
  const void* v = nullptr;
  const void* delta = nullptr;  ///< [batch, queries, heads], of log_sum_exp's type: sum over head_dim of out * dout
  const void* log_sum_exp = nullptr;
  const void* dout = nullptr;  ///< of `dtype`, shaped as q
  DType dq_dtype = DType::float32;
  void* dq = nullptr;          ///< shaped as q
  bool accumulate_dq = false;  ///< add to dq instead of overwriting it
  DType dkv_dtype = DType::float32;
  void* dk = nullptr;           ///< shaped as k
  void* dv = nullptr;           ///< shaped as v
  bool accumulate_dkv = false;  ///< add to dk and dv instead of overwriting them
};

/// One way to compute it. Results are the same bits whatever the number of threads. `scratch` is 64-byte aligned, holds
/// the stated bytes (multiples of 64) and needs no initial contents. Functions allocate nothing and throw
/// std::logic_error when the problem or the dtypes are invalid or refused.
struct AttentionImplementation {
  std::string_view name;        ///< of the instruction set, or "reference"
  const InstructionSet* isa{};  ///< null: the reference
  /// Why it cannot run this problem on this processor; empty when it can. Index arrays need not be set.
  std::string refusal(const AttentionProblem&, DType dtype) const;
  std::size_t forward_scratch_bytes(const AttentionProblem&, DType dtype, int threads) const;
  std::size_t backward_scratch_bytes(const AttentionProblem&, DType dtype, DType dq_dtype, int threads) const;
  void forward(const AttentionProblem&, const AttentionForward&, ThreadPool&, void* scratch) const;
  void backward(const AttentionProblem&, const AttentionBackward&, ThreadPool&, void* scratch) const;
};

/// All implementations of this build, the preferred first and "reference", which never refuses a valid problem, last.
std::span<const AttentionImplementation> attention_implementations();

/// The first implementation that accepts; each that refuses appends "name: reason" to `refusals`. Reads LONGHAUL_ISA
/// (not for use in a step: select once, call often).
const AttentionImplementation& select_attention(const AttentionProblem&, DType dtype,
                                                std::vector<std::string>* refusals = nullptr);

/// Plain loops, one row at a time: the oracle for everything above.
namespace reference {
void attention_forward(const AttentionProblem&, const AttentionForward&, ThreadPool&, void* scratch);
void attention_backward(const AttentionProblem&, const AttentionBackward&, ThreadPool&, void* scratch);
std::size_t attention_forward_scratch_bytes(const AttentionProblem&, DType dtype, int threads);
std::size_t attention_backward_scratch_bytes(const AttentionProblem&, DType dtype, DType dq_dtype, int threads);
}  // namespace reference

}  // namespace longhaul::cpu
