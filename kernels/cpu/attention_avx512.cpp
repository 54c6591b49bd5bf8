// Attention with AVX-512 F, BW, DQ and VL: float32, and bfloat16 widened to float32.
#include "kernels/cpu/attention_vectors_avx512.h"
#include "kernels/cpu/attention_words_float.h"

namespace longhaul::cpu {

extern const AttentionTileKernels attention_avx512_float32, attention_avx512_bfloat16;
constinit const AttentionTileKernels attention_avx512_float32 = attention_tile_kernels<FloatWords<Avx512, float>>;
constinit const AttentionTileKernels attention_avx512_bfloat16 =
    attention_tile_kernels<FloatWords<Avx512, std::uint16_t>>;

}  // namespace longhaul::cpu
