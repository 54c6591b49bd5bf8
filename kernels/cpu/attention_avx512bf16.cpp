// Attention with AVX-512 BF16: words are pairs of bfloat16, multiplied by vdpbf16ps, which adds two products to a
// float.
#include "kernels/cpu/attention_vectors_avx512.h"
// (first, for its warnings)
#include "kernels/cpu/attention_pack.h"

namespace longhaul::cpu {
namespace {

struct PairWords : Avx512 {
  using Storage = std::uint16_t;
  using Word = std::uint32_t;
  using Words = __m512bh;
  static constexpr int pack = 2;

  LONGHAUL_INLINE Words load_words(const Word* p) { return (__m512bh)_mm512_loadu_si512(p); }
  LONGHAUL_INLINE Words broadcast_word(const Word* p) { return (__m512bh)_mm512_set1_epi32(static_cast<int>(*p)); }
  LONGHAUL_INLINE Vector multiply_add(Vector c, Words a, Words b) { return _mm512_dpbf16_ps(c, a, b); }

  LONGHAUL_INLINE void stage(const Storage* from, Word* to) { _mm512_storeu_si512(to, _mm512_loadu_si512(from)); }
  LONGHAUL_INLINE Word word(const Storage* from) { return from[0] | static_cast<Word>(from[1]) << 16; }
  /// Pairs the elements of a row with those of the next: 16 elements each.
  LONGHAUL_INLINE void interleave(const Word* from, std::ptrdiff_t stride, Word* to) {
    const auto widen = [](const Word* p) __attribute__((always_inline)) {
      return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    };
    _mm512_storeu_si512(to, _mm512_or_si512(widen(from), _mm512_slli_epi32(widen(from + stride), 16)));
  }
  /// Thirty-two elements of one row, neighbours paired.
  LONGHAUL_INLINE void store_row_words(Word* to, Vector a, Vector b) {
    _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh(b, a));
  }
  /// Sixteen elements of one row paired with those of the next.
  LONGHAUL_INLINE void store_pair(Word* to, Vector a, Vector b) {
    const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i alternate =
        _mm512_or_si512(lane, _mm512_slli_epi32(_mm512_add_epi32(lane, _mm512_set1_epi32(16)), 16));
    _mm512_storeu_si512(to, _mm512_permutexvar_epi16(alternate, (__m512i)_mm512_cvtne2ps_pbh(b, a)));
  }
};

}  // namespace

extern const AttentionTileKernels attention_avx512bf16_bfloat16;
constinit const AttentionTileKernels attention_avx512bf16_bfloat16 = attention_tile_kernels<PairWords>;

}  // namespace longhaul::cpu
