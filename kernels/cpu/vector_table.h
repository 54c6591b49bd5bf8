// The vectorised inner loops, one set for each instruction set, chosen at run time. An instruction set has its width in
// vector_<name>.cpp (isa.h registers it); an op's inner loops are one header, <op>_vector.h, written for any width.
#pragma once
#include <cstdint>

#include "base/dtype.h"

namespace longhaul::cpu {

struct RmsNorm;
struct RmsNormGradient;
struct LayerNorm;
struct LayerNormGradient;
struct Rope;
struct Activation;
struct ActivationGradient;
struct GatedActivation;
struct GatedActivationGradient;
struct Add;
struct Scale;
struct AddBias;
struct SumRows;
struct Cast;
struct CrossEntropy;
struct AdamW;
struct SumOfSquares;
struct KvHeads;
struct AttentionDelta;

/// An inner loop: works on the rows (or elements) begin..end-1 of a problem. Indexed by the activations' DType.
template <typename Problem>
struct RangeFunctions {
  using Function = void (*)(const Problem& problem, std::int64_t begin, std::int64_t end);
  Function functions[3];
  Function operator[](DType type) const { return functions[static_cast<int>(type)]; }
};
/// The same with a result or partial sums of the range in `out`.
template <typename Problem>
struct PartFunctions {
  using Function = void (*)(const Problem& problem, std::int64_t begin, std::int64_t end, void* out);
  Function functions[3];
  Function operator[](DType type) const { return functions[static_cast<int>(type)]; }
};

struct VectorTable {
  const char* name;  ///< "avx512bf16", "avx512", "avx2", "generic"
  RangeFunctions<RmsNorm> rms_norm;
  PartFunctions<RmsNormGradient> rms_norm_gradient;  ///< out: dweight [d] in the arithmetic type, written
  RangeFunctions<LayerNorm> layer_norm;
  PartFunctions<LayerNormGradient> layer_norm_gradient;  ///< out: dweight [d], then dbias at the next cache line
  RangeFunctions<Rope> rope;                             ///< table in the arithmetic type
  RangeFunctions<Activation> activation;
  RangeFunctions<ActivationGradient> activation_gradient;
  RangeFunctions<GatedActivation> gated_activation;
  RangeFunctions<GatedActivationGradient> gated_activation_gradient;
  RangeFunctions<Add> add;
  RangeFunctions<Scale> scale;
  RangeFunctions<AddBias> add_bias;
  PartFunctions<SumRows> sum_rows;            ///< out: [d] in the arithmetic type, written
  RangeFunctions<Cast> cast;                  ///< indexed by `from`
  PartFunctions<CrossEntropy> cross_entropy;  ///< out: double [rows], each row's loss, or null
  RangeFunctions<AdamW> adamw;                ///< indexed by the gradient's type
  /// *out = sum of squares of the elements begin..end-1, a double.
  PartFunctions<SumOfSquares> sum_of_squares;
  RangeFunctions<KvHeads> reduce_heads;  ///< indexed by x's type
  RangeFunctions<AttentionDelta> attention_delta;
  /// out[j] = sum over i < count of rows[indices[i]][j] for columns begin..end-1, in order, in the arithmetic type.
  using GatherFunction = void (*)(const void* rows, std::int64_t row_stride, const std::int32_t* indices,
                                  std::int64_t count, std::int64_t begin, std::int64_t end, void* out);
  GatherFunction sum_gathered_functions[3];
  GatherFunction sum_gathered(DType type) const { return sum_gathered_functions[static_cast<int>(type)]; }
};

/// The best table for this processor that LONGHAUL_ISA allows, as it was at the first call.
const VectorTable& vector_table();
/// The table of that name, whatever LONGHAUL_ISA says, or null when this build or processor has none.
const VectorTable* vector_table(const char* name);

}  // namespace longhaul::cpu
