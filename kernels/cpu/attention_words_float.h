// Words that are floats, on top of a set of float vectors: float32 as it is, bfloat16 widened when it is packed.
// Included by attention_<isa>.cpp only.
#pragma once
#include "kernels/cpu/attention_pack.h"

namespace longhaul::cpu {
namespace {

/// `Vectors`: the float operations of an instruction set; `Stored`: float, or std::uint16_t for bfloat16.
template <class Vectors, typename Stored>
struct FloatWords : Vectors {
  using typename Vectors::Vector;
  using Storage = Stored;
  using Word = float;
  using Words = Vector;
  static constexpr int pack = 1;

  LONGHAUL_INLINE Words load_words(const Word* p) { return Vectors::load(p); }
  LONGHAUL_INLINE Words broadcast_word(const Word* p) { return Vectors::fill(*p); }
  LONGHAUL_INLINE Vector multiply_add(Vector c, Words a, Words b) { return Vectors::fused(a, b, c); }

  LONGHAUL_INLINE void stage(const Storage* from, Word* to) { Vectors::store(to, Vectors::load(from)); }
  LONGHAUL_INLINE Word word(const Storage* from) { return Vectors::to_float(*from); }
  LONGHAUL_INLINE void interleave(const Word* from, std::ptrdiff_t, Word* to) {
    Vectors::store(to, Vectors::load(from));
  }
  LONGHAUL_INLINE void store_row_words(Word* to, Vector a, Vector b) {
    Vectors::store(to, a);
    Vectors::store(to + Vectors::lanes, b);
  }
  LONGHAUL_INLINE void store_pair(Word* to, Vector a, Vector) { Vectors::store(to, a); }
};

}  // namespace
}  // namespace longhaul::cpu
