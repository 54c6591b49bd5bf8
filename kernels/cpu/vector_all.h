// Puts one instruction set's inner loops into a table. Included by vector_<isa>.cpp only.
#pragma once
#include "kernels/cpu/activation_vector.h"
#include "kernels/cpu/adamw_vector.h"
#include "kernels/cpu/attention_delta_vector.h"
#include "kernels/cpu/cross_entropy_vector.h"
#include "kernels/cpu/elementwise_vector.h"
#include "kernels/cpu/kv_heads_vector.h"
#include "kernels/cpu/norm_vector.h"
#include "kernels/cpu/rope_vector.h"
#include "kernels/cpu/vector_table.h"

namespace longhaul::cpu {
namespace {

#define LONGHAUL_FOR_EACH_TYPE(function)                      \
  {                                                           \
    { function<double>, function<float>, function<bfloat16> } \
  }
constexpr VectorTable make_vector_table(const char* name) {
  return VectorTable{
      .name = name,
      .rms_norm = LONGHAUL_FOR_EACH_TYPE(rms_norm_range),
      .rms_norm_gradient = LONGHAUL_FOR_EACH_TYPE(rms_norm_gradient_range),
      .layer_norm = LONGHAUL_FOR_EACH_TYPE(layer_norm_range),
      .layer_norm_gradient = LONGHAUL_FOR_EACH_TYPE(layer_norm_gradient_range),
      .rope = LONGHAUL_FOR_EACH_TYPE(rope_range),
      .activation = LONGHAUL_FOR_EACH_TYPE(activation_range),
      .activation_gradient = LONGHAUL_FOR_EACH_TYPE(activation_gradient_range),
      .gated_activation = LONGHAUL_FOR_EACH_TYPE(gated_activation_range),
      .gated_activation_gradient = LONGHAUL_FOR_EACH_TYPE(gated_activation_gradient_range),
      .add = LONGHAUL_FOR_EACH_TYPE(add_range),
      .scale = LONGHAUL_FOR_EACH_TYPE(scale_range),
      .add_bias = LONGHAUL_FOR_EACH_TYPE(add_bias_range),
      .sum_rows = LONGHAUL_FOR_EACH_TYPE(sum_rows_range),
      .cast = LONGHAUL_FOR_EACH_TYPE(cast_range),
      .cross_entropy = LONGHAUL_FOR_EACH_TYPE(cross_entropy_range),
      .adamw = LONGHAUL_FOR_EACH_TYPE(adamw_range),
      .sum_of_squares = LONGHAUL_FOR_EACH_TYPE(sum_of_squares_range),
      .reduce_heads = LONGHAUL_FOR_EACH_TYPE(reduce_heads_range),
      .attention_delta = LONGHAUL_FOR_EACH_TYPE(attention_delta_range),
      .sum_gathered_functions = {sum_gathered_range<double>, sum_gathered_range<float>, sum_gathered_range<bfloat16>},
  };
}
#undef LONGHAUL_FOR_EACH_TYPE

}  // namespace
}  // namespace longhaul::cpu
