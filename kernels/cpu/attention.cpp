// Checks, and the choice of an implementation.
#include "kernels/cpu/attention.h"

#include <array>
#include <cmath>

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
  LONGHAUL_CHECK(is_floating(dtype), "attention: dtype {}", longhaul::name_of(dtype));
  LONGHAUL_CHECK(p.query_index && p.key_index && p.key_start, "attention: an index array is missing");
}

/// The kernels of one instruction set: its own for bfloat16 and float32.
template <Isa isa, const AttentionTileKernels* float32, const AttentionTileKernels* bf16>
struct Tiled {
  static const AttentionTileKernels& kernels(DType dtype) { return dtype == DType::bfloat16 ? *bf16 : *float32; }

  static std::string refusal(const AttentionProblem& p, DType dtype) {
    if (usable_isa() < isa)
      return fmt::format("needs {}; this CPU (capped by LONGHAUL_ISA, if set) has {}", name_of(isa),
                         name_of(usable_isa()));
    if ((dtype == DType::bfloat16 ? bf16 : float32) == nullptr)
      return fmt::format("has no kernel of its own for {}", longhaul::name_of(dtype));
    return tiled_attention_refusal(p, dtype);
  }
  static std::size_t forward_scratch_bytes(const AttentionProblem& p, DType dtype, int threads) {
    return tiled_forward_scratch_bytes(kernels(dtype), p, threads);
  }
  static std::size_t backward_scratch_bytes(const AttentionProblem& p, DType dtype, DType dq_dtype, int threads) {
    return tiled_backward_scratch_bytes(kernels(dtype), p, dq_dtype, threads);
  }
  static void forward(const AttentionProblem& p, const AttentionForward& a, ThreadPool& pool, void* scratch) {
    check_attention(p, a);
    tiled_forward(kernels(a.dtype), p, a, pool, scratch);
  }
  static void backward(const AttentionProblem& p, const AttentionBackward& a, ThreadPool& pool, void* scratch) {
    check_attention(p, a);
    tiled_backward(kernels(a.dtype), p, a, pool, scratch);
  }
  static constexpr AttentionImplementation entry(std::string_view name) {
    return {name, refusal, forward_scratch_bytes, backward_scratch_bytes, forward, backward};
  }
};

// The preferred first. A new instruction set adds its line here.
constexpr std::array implementations = {
    Tiled<Isa::avx512bf16, nullptr, &attention_avx512bf16_bfloat16>::entry("avx512bf16"),
    Tiled<Isa::avx512, &attention_avx512_float32, &attention_avx512_bfloat16>::entry("avx512"),
    Tiled<Isa::avx2, &attention_avx2_float32, &attention_avx2_bfloat16>::entry("avx2"),
    AttentionImplementation{"reference", [](const AttentionProblem&, DType) { return std::string(); },
                            reference::attention_forward_scratch_bytes, reference::attention_backward_scratch_bytes,
                            reference::attention_forward, reference::attention_backward},
};

}  // namespace

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
  for (DType type : {a.out_dtype, a.dq_dtype, a.dkv_dtype})
    LONGHAUL_CHECK(same_or_float32(type, a.dtype), "attention of {} with an output or gradient of {}",
                   longhaul::name_of(a.dtype), longhaul::name_of(type));
  LONGHAUL_CHECK(!a.accumulate_dq || a.dq_dtype != DType::bfloat16, "attention: dq accumulates in bfloat16");
  LONGHAUL_CHECK(!a.accumulate_dkv || a.dkv_dtype != DType::bfloat16, "attention: dk and dv accumulate in bfloat16");
  LONGHAUL_CHECK(a.q && a.k && a.v && a.out && a.log_sum_exp && a.dout && a.dq && a.dk && a.dv,
                 "attention: an array is missing");
}

std::span<const AttentionImplementation> attention_implementations() {
  return implementations;
}

const AttentionImplementation& select_attention(const AttentionProblem& p, DType dtype,
                                                std::vector<std::string>* refusals) {
  for (const AttentionImplementation& one : implementations) {
    const std::string reason = one.refusal(p, dtype);
    if (reason.empty()) return one;
    if (refusals) refusals->push_back(fmt::format("{}: {}", one.name, reason));
  }
  LONGHAUL_CHECK(false, "the reference attention refused");
}

}  // namespace longhaul::cpu
