// The inner kernels of blocked attention, for any vector width. Included by attention_<isa>.cpp only, each of which
// gives a struct `Isa` of vector operations. Everything is in an anonymous namespace and calls no inline function of
// others: two instruction sets must never share a function that the linker may merge.
//
//  * One register tile serves every product: `rows` x 2 vectors of C, A broadcast word by word, B read as two vectors.
//  A
//    may be row-major or k-major, so the weights P and logit gradients dS, kept as [query][key], are never transposed:
//    dV += P' dO and dK += dS' Q read them k-major, dQ = dS K row-major.
//  * S becomes P in registers at the end of its product; dP starts from -delta, so that dS = P * dP.
//  * Powers of two: with c = scale / ln 2, exp(scale s - lse) = 2^(c s - lse / ln 2).
#pragma once
#include <cstddef>
#include <cstdint>

#include "kernels/cpu/attention_tile_kernels.h"

#define LONGHAUL_INLINE static inline __attribute__((always_inline))
#define LONGHAUL_NOINLINE static __attribute__((noinline))
// Loops over the registers of a tile. The count must be at least the trip count, or GCC spills the accumulators.
#define LONGHAUL_UNROLL _Pragma("GCC unroll 32")

namespace longhaul::cpu {
namespace {

/// 2^x = 1 + x (c[0] + x (c[1] + ...)) for |x| <= 1/2: minimax of degree 5 among the polynomials that are 1 at 0, so
/// that the largest weight of a row is exact. Relative error 0.9e-7, and below 1.6e-7 when evaluated in float32.
constexpr float exp2_coefficients[] = {.693147004f, .240222424f, .0555073358f, 9.67151392e-3f, 1.32647285e-3f};

/// tanh(x) = x P(x^2) / Q(x^2) for |x| <= 9, beyond which a float of tanh is 1; Q begins with 1. A minimax fit of our
/// own, all coefficients positive: no cancellation. Relative error 2e-8, and below 4e-7 when evaluated in float32.
constexpr float tanh_numerator[] = {1, .13380982f, 3.4955363e-3f, 2.0608213e-5f, 1.335345e-8f};
constexpr float tanh_denominator[] = {1, .46714297f, .025876787f, 3.2855492e-4f, 7.7760626e-7f};

enum class Piece { hidden, compared, full };

template <class Isa>
struct AttentionTile {
  using Vector = typename Isa::Vector;    // of floats
  using Word = typename Isa::Word;        // what products multiply: float, or a pair of bfloat16
  using Storage = typename Isa::Storage;  // what q, k, v are stored as: float, or the bits of a bfloat16
  static constexpr int rows = Isa::rows;
  static constexpr int lanes = Isa::lanes;
  static constexpr int panel = 2 * lanes;
  static constexpr int pack = Isa::pack;  // elements of a word
  static constexpr int group_strips = query_group / rows;
  static_assert(query_group % rows == 0 && key_group % rows == 0 && key_group % panel == 0 && rows % pack == 0);

  LONGHAUL_INLINE const Word* words(const void* memory) { return static_cast<const Word*>(memory); }
  LONGHAUL_INLINE Word* words(void* memory) { return static_cast<Word*>(memory); }

  // ---- the register tile --------------------------------------------------------------------------------------------

  /// c(i, :) += sum over words k in [begin, end) of A(i, k) B(k, :). `stride`: words between the rows of a row-major A,
  /// or between the k of a k-major one. B: [k][vectors * lanes].
  template <bool k_major, int vectors>
  LONGHAUL_INLINE void multiply(Vector (&c)[rows][vectors], int begin, int end, const Word* a, std::ptrdiff_t stride,
                                const Word* b) {
    const Word* row_pointers[(rows + 3) / 4];  // one for four rows keeps the addresses in registers
    LONGHAUL_UNROLL
    for (int i = 0; i < (rows + 3) / 4; ++i) row_pointers[i] = a + 4 * i * stride;
#pragma GCC unroll 4
    for (int k = begin; k < end; ++k) {
      typename Isa::Words right[vectors];
      LONGHAUL_UNROLL
      for (int j = 0; j < vectors; ++j)
        right[j] = Isa::load_words(b + static_cast<std::ptrdiff_t>(k) * vectors * lanes + j * lanes);
      LONGHAUL_UNROLL
      for (int i = 0; i < rows; ++i) {
        const Word* word = k_major ? a + k * stride + i : row_pointers[i / 4] + i % 4 * stride + k;
        const auto left = Isa::broadcast_word(word);
        LONGHAUL_UNROLL
        for (int j = 0; j < vectors; ++j) c[i][j] = Isa::multiply_add(c[i][j], left, right[j]);
      }
    }
  }

  enum class Start { zero, load, scale };

  /// C = A B, C + A B, or C with row i times factor[i], + A B.
  template <bool k_major, Start start, int vectors>
  LONGHAUL_NOINLINE void product(int begin, int end, const Word* a, std::ptrdiff_t stride, const Word* b, float* c,
                                 std::ptrdiff_t c_stride, const float* factor) {
    Vector tile[rows][vectors];
    LONGHAUL_UNROLL
    for (int i = 0; i < rows; ++i) {
      LONGHAUL_UNROLL
      for (int j = 0; j < vectors; ++j) {
        if constexpr (start == Start::zero)
          tile[i][j] = Isa::fill(0);
        else
          tile[i][j] = Isa::load(c + i * c_stride + j * lanes);
        if constexpr (start == Start::scale) tile[i][j] = Isa::multiply(tile[i][j], Isa::fill(factor[i]));
      }
    }
    multiply<k_major>(tile, begin, end, a, stride, b);
    LONGHAUL_UNROLL
    for (int i = 0; i < rows; ++i) {
      LONGHAUL_UNROLL
      for (int j = 0; j < vectors; ++j) Isa::store(c + i * c_stride + j * lanes, tile[i][j]);
    }
  }

  /// The same over all panels of columns of a row of strips; `b` holds panels packed for `b_words` words.
  template <bool k_major, Start start>
  LONGHAUL_INLINE void panel_product(int column, int padded_dim, int b_words, int begin, int end, const Word* a,
                                     std::ptrdiff_t stride, const Word* b, float* c, const float* factor) {
    const Word* right = b + static_cast<std::ptrdiff_t>(column) * b_words;
    if (column + panel <= padded_dim)
      product<k_major, start, 2>(begin, end, a, stride, right, c + column, padded_dim, factor);
    else
      product<k_major, start, 1>(begin, end, a, stride, right, c + column, padded_dim, factor);
  }

  // ---- the mask -----------------------------------------------------------------------------------------------------

  LONGHAUL_INLINE Piece piece(const TileMask& mask, int strip, int panel_number) {
    const std::int32_t* query = mask.strips + 4 * strip;
    const std::int32_t* key = mask.panels + 2 * panel_number;
    if (key[0] > query[1] || key[1] < query[2]) return Piece::hidden;
    return key[1] <= query[0] && key[0] >= query[3] ? Piece::full : Piece::compared;
  }

  /// Which of the keys from `key` on query `query` sees.
  LONGHAUL_INLINE typename Isa::Mask visible(const TileMask& mask, int query, int key) {
    return Isa::within(mask.key_index + key, mask.query_first[query], mask.query_last[query]);
  }

  /// The smallest range that holds what it is told of.
  struct Extent {
    int begin = 0, end = 0;
    void add(int i) {
      if (end == 0 || i < begin) begin = i;
      if (i + 1 > end) end = i + 1;
    }
    bool empty() const { return end == 0; }
  };

  /// Asks for part `part` of `parts` of the rows, as far as the second-level cache.
  template <int arrays>
  LONGHAUL_INLINE void prefetch_part(const RowPrefetch (&prefetch)[arrays], int part, int parts) {
    for (const RowPrefetch& array : prefetch) {
      if (!array.rows) continue;
      for (int row = array.count * part / parts; row < array.count * (part + 1) / parts; ++row)
        for (int byte = 0; byte < array.bytes; byte += 64)
          __builtin_prefetch(static_cast<const char*>(array.rows) + row * array.stride + byte, 0, 2);
    }
  }

  // ---- forward ------------------------------------------------------------------------------------------------------

  /// tanh(x), x being a scaled logit over the cap.
  LONGHAUL_INLINE Vector tanh(Vector x) {
    // The operand that may be NaN comes second, so that NaN stays.
    const Vector y = Isa::maximum(Isa::fill(-9), Isa::minimum(Isa::fill(9), x)), z = Isa::multiply(y, y);
    Vector p = Isa::fill(tanh_numerator[4]), q = Isa::fill(tanh_denominator[4]);
    LONGHAUL_UNROLL
    for (int i = 3; i >= 0; --i) {
      p = Isa::fused(p, z, Isa::fill(tanh_numerator[i]));
      q = Isa::fused(q, z, Isa::fill(tanh_denominator[i]));
    }
    return Isa::divide(Isa::multiply(y, p), q);
  }

  /// Logits (before the scale; with a cap after both) of one strip and one panel, and the running maximum of each lane.
  template <bool compare, bool capped>
  LONGHAUL_NOINLINE void logits_piece(const ForwardTile& t, int strip, int panel_number, float* logits,
                                      float* maximum) {
    Vector tile[rows][2];
    LONGHAUL_UNROLL
    for (int i = 0; i < rows; ++i) tile[i][0] = tile[i][1] = Isa::fill(0);
    const std::ptrdiff_t stride = t.widths.staged_words;
    multiply<false>(tile, 0, t.widths.words, words(t.q) + strip * rows * stride, stride,
                    words(t.k_transposed) + static_cast<std::ptrdiff_t>(panel_number) * panel * t.widths.words);
    LONGHAUL_UNROLL
    for (int i = 0; i < rows; ++i) {
      LONGHAUL_UNROLL
      for (int j = 0; j < 2; ++j) {
        if constexpr (capped)
          tile[i][j] =
              Isa::multiply(tanh(Isa::multiply(tile[i][j], Isa::fill(t.scale / t.soft_cap))), Isa::fill(t.soft_cap));
        if constexpr (compare)
          tile[i][j] = Isa::select(visible(t.mask, strip * rows + i, panel_number * panel + j * lanes), tile[i][j],
                                   Isa::fill(lowest_logit));
        Isa::store(logits + i * key_block + j * lanes, tile[i][j]);
      }
      Isa::store(maximum + i * lanes,
                 Isa::maximum(Isa::load(maximum + i * lanes), Isa::maximum(tile[i][0], tile[i][1])));
    }
  }

  /// Exponentials of one row's logits over the keys of `extent`, relative to 2^top; returns their sum.
  LONGHAUL_INLINE float weights_row(const float* logits, Word* weights, Extent extent, float c, float top) {
    const Vector factor = Isa::fill(c), shift = Isa::fill(top > lowest_logit / 2 ? -top : 0);
    Vector sum0 = Isa::fill(0), sum1 = Isa::fill(0);
    for (int key = extent.begin * panel; key < extent.end * panel; key += panel) {
      const Vector a = Isa::exp2(Isa::fused(Isa::load(logits + key), factor, shift));
      const Vector b = Isa::exp2(Isa::fused(Isa::load(logits + key + lanes), factor, shift));
      sum0 = Isa::add(sum0, a);
      sum1 = Isa::add(sum1, b);
      Isa::store_row_words(weights + key / pack, a, b);
    }
    return Isa::sum(Isa::add(sum0, sum1));
  }

  static void forward_tile(const ForwardTile& t) {
    for (int first = 0; first < t.mask.strip_count; first += group_strips) forward_group(t, first);
  }

  /// A group of strips: few enough rows that their logits stay in the first-level cache.
  LONGHAUL_NOINLINE void forward_group(const ForwardTile& t, int first) {
    Extent keys[group_strips];  // in panels
    bool any = false;
    for (int strip = 0; strip < group_strips; ++strip)
      for (int p = 0; p < t.mask.panel_count; ++p)
        if (piece(t.mask, first + strip, p) != Piece::hidden) keys[strip].add(p), any = true;
    if (!any) return;

    alignas(64) float lane_maximum[query_group * lanes];
    for (int i = 0; i < query_group * lanes; ++i) lane_maximum[i] = lowest_logit;
    for (int p = 0; p < t.mask.panel_count; ++p) {
      prefetch_part(t.prefetch, first / group_strips * t.mask.panel_count + p,
                    t.mask.strip_count / group_strips * t.mask.panel_count);
      for (int strip = 0; strip < group_strips; ++strip) {
        if (p < keys[strip].begin || p >= keys[strip].end) continue;
        float* logits = t.logits + strip * rows * key_block + p * panel;
        float* maximum = lane_maximum + strip * rows * lanes;
        const bool full = piece(t.mask, first + strip, p) == Piece::full;
        if (t.soft_cap != 0)
          full ? logits_piece<false, true>(t, first + strip, p, logits, maximum)
               : logits_piece<true, true>(t, first + strip, p, logits, maximum);
        else
          full ? logits_piece<false, false>(t, first + strip, p, logits, maximum)
               : logits_piece<true, false>(t, first + strip, p, logits, maximum);
      }
    }

    const int first_row = first * rows;
    const float c = (t.soft_cap != 0 ? 1 : t.scale) * 1.44269504f;
    alignas(64) float top[query_group], decay[query_group];
    for (int row = 0; row < query_group; ++row) {
      const float largest = Isa::largest(Isa::load(lane_maximum + row * lanes));
      const float old = t.maximum[first_row + row];
      top[row] = largest > lowest_logit / 2 && c * largest > old ? c * largest : old;
    }
    for (int row = 0; row < query_group; row += lanes) {
      const Vector now = Isa::load(top + row), old = Isa::load(t.maximum + first_row + row);
      Isa::store(decay + row, Isa::exp2(Isa::subtract(old, now)));
      Isa::store(t.maximum + first_row + row, now);
    }
    Word* weights = words(t.weights);
    for (int row = 0; row < query_group; ++row) {
      const float sum =
          weights_row(t.logits + row * key_block, weights + row * key_block / pack, keys[row / rows], c, top[row]);
      t.sum[first_row + row] = t.sum[first_row + row] * decay[row] + sum;
    }

    for (int column = 0; column < t.widths.padded_dim; column += panel)
      for (int strip = 0; strip < group_strips; ++strip)
        if (!keys[strip].empty())
          panel_product<false, Start::scale>(
              column, t.widths.padded_dim, t.mask.panel_count * panel / pack, keys[strip].begin * panel / pack,
              keys[strip].end * panel / pack, weights + strip * rows * key_block / pack, key_block / pack,
              words(t.v_panels), t.out + static_cast<std::ptrdiff_t>(first_row + strip * rows) * t.widths.padded_dim,
              decay + strip * rows);
  }

  // ---- backward -----------------------------------------------------------------------------------------------------

  /// Stores a tile of floats as [query / pack][key] words.
  LONGHAUL_INLINE void store_paired_over_queries(const Vector (&tile)[rows][2], Word* to) {
    LONGHAUL_UNROLL
    for (int i = 0; i < rows; i += pack) {
      LONGHAUL_UNROLL
      for (int j = 0; j < 2; ++j)
        Isa::store_pair(to + i / pack * key_block + j * lanes, tile[i][j], tile[i + pack - 1][j]);
    }
  }

  /// P and dS of one strip and one panel. With a cap dS is by the logits before it: its slope 1 - tanh^2 joins P where
  /// dS is made.
  template <bool compare, bool capped>
  LONGHAUL_NOINLINE void gradients_piece(const BackwardTile& t, int strip, int panel_number) {
    const int row0 = strip * rows, key0 = panel_number * panel;
    const std::ptrdiff_t stride = t.widths.staged_words, at = row0 / pack * key_block + key0;
    const std::ptrdiff_t right = static_cast<std::ptrdiff_t>(key0) * t.widths.words;
    const Vector c = Isa::fill((capped ? t.soft_cap : t.scale) * 1.44269504f);
    alignas(64) float buffer[rows][panel], slopes[capped ? rows : 1][panel];
    float* weights = buffer[0];
    std::ptrdiff_t weights_stride = panel;
    if constexpr (pack == 1) weights = words(t.weights) + at, weights_stride = key_block;
    Vector tile[rows][2];

    LONGHAUL_UNROLL
    for (int i = 0; i < rows; ++i) tile[i][0] = tile[i][1] = Isa::fill(0);
    multiply<false>(tile, 0, t.widths.words, words(t.q) + row0 * stride, stride, words(t.k_transposed) + right);
    LONGHAUL_UNROLL
    for (int i = 0; i < rows; ++i) {
      LONGHAUL_UNROLL
      for (int j = 0; j < 2; ++j) {
        if constexpr (capped) {
          tile[i][j] = tanh(Isa::multiply(tile[i][j], Isa::fill(t.scale / t.soft_cap)));
          Isa::store(slopes[i] + j * lanes, Isa::subtract(Isa::fill(1), Isa::multiply(tile[i][j], tile[i][j])));
        }
        tile[i][j] = Isa::exp2(Isa::fused(tile[i][j], c, Isa::fill(t.negative_log_sum_exp[row0 + i])));
        if constexpr (compare)
          tile[i][j] = Isa::select(visible(t.mask, row0 + i, key0 + j * lanes), tile[i][j], Isa::fill(0));
        Isa::store(weights + i * weights_stride + j * lanes, tile[i][j]);
      }
    }
    if constexpr (pack == 2) store_paired_over_queries(tile, words(t.weights) + at);

    LONGHAUL_UNROLL
    for (int i = 0; i < rows; ++i) tile[i][0] = tile[i][1] = Isa::fill(t.negative_delta[row0 + i]);
    multiply<false>(tile, 0, t.widths.words, words(t.dout) + row0 * stride, stride, words(t.v_transposed) + right);
    LONGHAUL_UNROLL
    for (int i = 0; i < rows; ++i) {
      LONGHAUL_UNROLL
      for (int j = 0; j < 2; ++j) {
        tile[i][j] = Isa::multiply(Isa::load(weights + i * weights_stride + j * lanes), tile[i][j]);
        if constexpr (capped) tile[i][j] = Isa::multiply(Isa::load(slopes[i] + j * lanes), tile[i][j]);
      }
      if constexpr (pack == 2)
        Isa::store_row_words(words(t.dlogit_rows) + (row0 + i) * key_block / 2 + key0 / 2, tile[i][0], tile[i][1]);
    }
    store_paired_over_queries(tile, words(t.dlogits) + at);
  }

  /// Zeroes P and dS of a hidden piece, for the ranges of the products below may cover it.
  LONGHAUL_NOINLINE void clear_piece(const BackwardTile& t, int strip, int panel_number) {
    const Vector zero = Isa::fill(0);
    for (int i = strip * rows; i < (strip + 1) * rows; ++i) {
      const std::ptrdiff_t at = i / pack * key_block + panel_number * panel;
      Isa::store_pair(words(t.weights) + at, zero, zero);
      Isa::store_pair(words(t.weights) + at + lanes, zero, zero);
      Isa::store_pair(words(t.dlogits) + at, zero, zero);
      Isa::store_pair(words(t.dlogits) + at + lanes, zero, zero);
      if constexpr (pack == 2)
        Isa::store_row_words(words(t.dlogit_rows) + (i * key_block + panel_number * panel) / 2, zero, zero);
    }
  }

  static void backward_tile(const BackwardTile& t) {
    Extent keys[backward_query_block / rows];  // of a strip, in panels
    Extent queries[key_block / panel];         // of a panel, in strips
    for (int p = 0; p < t.mask.panel_count; ++p)
      for (int strip = 0; strip < t.mask.strip_count; ++strip) {
        prefetch_part(t.prefetch, p * t.mask.strip_count + strip, t.mask.panel_count * t.mask.strip_count);
        const Piece kind = piece(t.mask, strip, p);
        if (kind != Piece::hidden) keys[strip].add(p), queries[p].add(strip);
        if (kind == Piece::hidden)
          clear_piece(t, strip, p);
        else if (t.soft_cap != 0)
          kind == Piece::full ? gradients_piece<false, true>(t, strip, p) : gradients_piece<true, true>(t, strip, p);
        else
          kind == Piece::full ? gradients_piece<false, false>(t, strip, p) : gradients_piece<true, false>(t, strip, p);
      }

    const int padded_dim = t.widths.padded_dim;
    for (int column = 0; column < padded_dim; column += panel)
      for (int strip = 0; strip < t.mask.strip_count; ++strip)
        panel_product<false, Start::zero>(
            column, padded_dim, t.mask.panel_count * panel / pack, keys[strip].begin * panel / pack,
            keys[strip].end * panel / pack, words(t.dlogit_rows) + strip * rows * key_block / pack, key_block / pack,
            words(t.k_panels), t.dq + static_cast<std::ptrdiff_t>(strip) * rows * padded_dim, nullptr);

    const int key_count = t.mask.panel_count * panel;
    for (int of_values = 0; of_values < 2; ++of_values) {
      const Word* left = words(of_values ? t.weights : t.dlogits);
      const Word* right = words(of_values ? t.dout_panels : t.q_panels);
      float* to = of_values ? t.dv : t.dk;
      for (int column = 0; column < padded_dim; column += panel)
        for (int key = 0; key < key_count; key += rows) {
          Extent strips;  // a strip of keys may lie in two panels
          for (int p = key / panel; p <= (key + rows - 1) / panel; ++p)
            if (!queries[p].empty()) strips.add(queries[p].begin), strips.add(queries[p].end - 1);
          if (!strips.empty())
            panel_product<true, Start::load>(column, padded_dim, t.mask.strip_count * rows / pack,
                                             strips.begin * rows / pack, strips.end * rows / pack, left + key,
                                             key_block, right, to + static_cast<std::ptrdiff_t>(key) * padded_dim,
                                             nullptr);
        }
    }
  }
};

}  // namespace
}  // namespace longhaul::cpu
