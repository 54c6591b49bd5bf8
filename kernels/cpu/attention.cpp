// Checks, and the choice of an implementation.
#include "kernels/cpu/attention.h"

#include <cmath>
#include <vector>

#include "base/error.h"
#include "kernels/cpu/attention_common.h"
#include "kernels/cpu/attention_tiled.h"
#include "kernels/cpu/isa.h"

namespace longhaul::cpu {
namespace {

bool same_or_float32(DType type, DType dtype) {
  return type == dtype || (type == DType::float32 && dtype == DType::bfloat16);
}

void check_problem(const AttentionProblem& p, DType dtype) {
  LONGHAUL_CHECK(p.batch > 0 && p.queries > 0 && p.keys > 0 && p.heads > 0 && p.kv_heads > 0 && p.head_dim > 0,
                 "attention: batch {}, queries {}, keys {}, heads {}, kv_heads {}, head_dim {}: all must be positive",
                 p.batch, p.queries, p.keys, p.heads, p.kv_heads, p.head_dim);
  LONGHAUL_CHECK(p.heads % p.kv_heads == 0, "attention: {} heads do not divide by {} kv heads", p.heads, p.kv_heads);
  LONGHAUL_CHECK(p.window >= 0, "attention: window {}", p.window);
  LONGHAUL_CHECK(p.soft_cap >= 0, "attention: soft cap {}", p.soft_cap);
  LONGHAUL_CHECK(is_floating(dtype), "attention: dtype {}", longhaul::name_of(dtype));
  LONGHAUL_CHECK(p.query_index && p.key_index && p.key_start, "attention: an index array is missing");
}

const AttentionTileKernels* tile_kernels(const InstructionSet& isa, DType dtype) {
  return dtype == DType::bfloat16 ? isa.attention_bfloat16 : isa.attention_float32;
}

}  // namespace

std::string AttentionImplementation::refusal(const AttentionProblem& p, DType dtype) const {
  if (!isa) return "";
  if (!usable(*isa))
    return fmt::format("needs {}; this CPU (capped by LONGHAUL_ISA, if set) has {}", name, usable_isa().name);
  if (!tile_kernels(*isa, dtype)) return fmt::format("has no kernel of its own for {}", longhaul::name_of(dtype));
  return tiled_attention_refusal(p, dtype);
}
std::size_t AttentionImplementation::forward_scratch_bytes(const AttentionProblem& p, DType dtype, int threads) const {
  if (!isa) return reference::attention_forward_scratch_bytes(p, dtype, threads);
  return tiled_forward_scratch_bytes(*tile_kernels(*isa, dtype), p, threads);
}
std::size_t AttentionImplementation::backward_scratch_bytes(const AttentionProblem& p, DType dtype, DType dq_dtype,
                                                            int threads) const {
  if (!isa) return reference::attention_backward_scratch_bytes(p, dtype, dq_dtype, threads);
  return tiled_backward_scratch_bytes(*tile_kernels(*isa, dtype), p, dq_dtype, threads);
}
void AttentionImplementation::forward(const AttentionProblem& p, const AttentionForward& a, ThreadPool& pool,
                                      void* scratch) const {
  if (!isa) return reference::attention_forward(p, a, pool, scratch);
  check_attention(p, a);
  tiled_forward(*tile_kernels(*isa, a.dtype), p, a, pool, scratch);
}
void AttentionImplementation::backward(const AttentionProblem& p, const AttentionBackward& a, ThreadPool& pool,
                                       void* scratch) const {
  if (!isa) return reference::attention_backward(p, a, pool, scratch);
  check_attention(p, a);
  tiled_backward(*tile_kernels(*isa, a.dtype), p, a, pool, scratch);
}

std::string tiled_attention_refusal(const AttentionProblem& p, DType dtype) {
  if (dtype == DType::float64) return "float64 is left to the reference kernel";
  if (p.head_dim % 8 != 0 || p.head_dim < 8 || p.head_dim > 256)
    return fmt::format("head_dim is {}; blocked kernels take multiples of 8 from 8 to 256", p.head_dim);
  if (!(p.scale > 0) || !std::isfinite(p.scale))
    return fmt::format("scale is {}; blocked kernels take positive, finite scales", p.scale);
  return "";
}

void check_attention(const AttentionProblem& p, const AttentionForward& a) {
  check_problem(p, a.dtype);
  LONGHAUL_CHECK(same_or_float32(a.out_dtype, a.dtype), "attention of {} with an output of {}",
                 longhaul::name_of(a.dtype), longhaul::name_of(a.out_dtype));
  LONGHAUL_CHECK(a.q && a.k && a.v && a.out && a.log_sum_exp, "attention: an array is missing");
}

void check_attention(const AttentionProblem& p, const AttentionBackward& a) {
  check_problem(p, a.dtype);
  for (DType type : {a.dq_dtype, a.dkv_dtype})
    LONGHAUL_CHECK(same_or_float32(type, a.dtype), "attention of {} with a gradient of {}", longhaul::name_of(a.dtype),
                   longhaul::name_of(type));
  LONGHAUL_CHECK(!a.accumulate_dq || a.dq_dtype != DType::bfloat16, "attention: dq accumulates in bfloat16");
  LONGHAUL_CHECK(!a.accumulate_dkv || a.dkv_dtype != DType::bfloat16, "attention: dk and dv accumulate in bfloat16");
  LONGHAUL_CHECK(a.q && a.k && a.v && a.delta && a.log_sum_exp && a.dout && a.dq && a.dk && a.dv,
                 "attention: an array is missing");
}

std::span<const AttentionImplementation> attention_implementations() {
  static const std::vector<AttentionImplementation> implementations = [] {
    std::vector<AttentionImplementation> all;
    for (const InstructionSet& set : instruction_sets())
      if (set.attention_float32 || set.attention_bfloat16) all.push_back({set.name, &set});
    all.push_back({"reference"});
    return all;
  }();
  return implementations;
}

const AttentionImplementation& select_attention(const AttentionProblem& p, DType dtype,
                                                std::vector<std::string>* refusals) {
  for (const AttentionImplementation& one : attention_implementations()) {
    const std::string reason = one.refusal(p, dtype);
    if (reason.empty()) return one;
    if (refusals) refusals->push_back(fmt::format("{}: {}", one.name, reason));
  }
  LONGHAUL_CHECK(false, "the reference attention refused");
}

}  // namespace longhaul::cpu
