// How rows get into packed form and finished tiles out of it, for any vector width: here head dimensions that fill no
// whole vector and rows beyond the end are dealt with, so that the inner kernels need not know of them. Included by
// attention_<isa>.cpp only; see attention_tile.h about the anonymous namespace.
#pragma once
#include "kernels/cpu/attention_tile.h"

namespace longhaul::cpu {
namespace {

template <class Isa>
struct AttentionPack {
  using Vector = typename Isa::Vector;
  using Word = typename Isa::Word;
  using Storage = typename Isa::Storage;
  static constexpr int lanes = Isa::lanes;
  static constexpr int panel = 2 * lanes;
  static constexpr int pack = Isa::pack;

  static void stage(const void* from, std::int64_t stride, int rows, int padded_rows, const TileWidths& widths,
                    void* staged) {
    const int head_dim = widths.head_dim;
    for (int row = 0; row < padded_rows; ++row) {
      Word* to = static_cast<Word*>(staged) + static_cast<std::ptrdiff_t>(row) * widths.staged_words;
      int word = 0;
      if (row < rows) {
        const Storage* x = static_cast<const Storage*>(from) + row * stride;
        for (; word + lanes <= widths.words; word += lanes) Isa::stage(x + word * pack, to + word);
        if (word < widths.words) {  // eight elements at a time always fit, for head_dim is a multiple of 8
          for (int d = word * pack; d < head_dim; d += pack) to[d / pack] = Isa::word(x + d);
          word = widths.words;
        }
      }
      for (; word < widths.staged_words; ++word) to[word] = 0;
    }
  }

  static void pack_transposed(const void* staged, int rows, const TileWidths& widths, void* packed) {
    for (int row = 0; row < rows; row += lanes) {
      const Word* from = static_cast<const Word*>(staged) + static_cast<std::ptrdiff_t>(row) * widths.staged_words;
      Word* to =
          static_cast<Word*>(packed) + static_cast<std::ptrdiff_t>(row / panel) * panel * widths.words + row % panel;
      int word = 0;
      for (; word + lanes <= widths.words; word += lanes)
        Isa::transpose(from + word, widths.staged_words, to + word * panel, panel);
      for (; word < widths.words; ++word)
        for (int i = 0; i < lanes; ++i)
          to[word * panel + i] = from[static_cast<std::ptrdiff_t>(i) * widths.staged_words + word];
    }
  }

  static void pack_panels(const void* staged, int rows, const TileWidths& widths, void* packed) {
    Word* to = static_cast<Word*>(packed);
    for (int column = 0; column < widths.padded_dim; column += panel) {
      const int width = column + panel <= widths.padded_dim ? panel : lanes;
      for (int row = 0; row < rows; row += pack)
        for (int j = 0; j < width; j += lanes, to += lanes) {
          const Word* from = static_cast<const Word*>(staged) + static_cast<std::ptrdiff_t>(row) * widths.staged_words;
          Isa::interleave(from + (column + j) / pack, widths.staged_words, to);
        }
    }
  }

  /// One row: to[d] = or += from[d] * factor.
  template <typename To>
  LONGHAUL_INLINE void write_row(const float* from, float factor, int head_dim, bool accumulate, To* to) {
    const Vector scale = Isa::fill(factor);
    int d = 0;
    for (; d + lanes <= head_dim; d += lanes) {
      const Vector value = Isa::load(from + d);
      Isa::store(to + d, accumulate ? Isa::fused(value, scale, Isa::load(to + d)) : Isa::multiply(value, scale));
    }
    if (d == head_dim) return;
    alignas(64) float tail[lanes];
    alignas(64) To rounded[lanes];
    for (int i = 0; i < lanes; ++i) tail[i] = accumulate && d + i < head_dim ? Isa::to_float(to[d + i]) : 0;
    // `from` is padded to 16 floats: a whole vector may be read.
    Isa::store(rounded, Isa::fused(Isa::load(from + d), scale, Isa::load(tail)));
    for (int i = 0; d + i < head_dim; ++i) to[d + i] = rounded[i];
  }

  static void write_rows(const WriteRows& w) {
    for (int row = 0; row < w.rows; ++row) {
      const float* from = w.tile + static_cast<std::ptrdiff_t>(row) * w.tile_stride;
      const float factor = w.row_factor ? w.row_factor[row] * w.factor : w.factor;
      if (w.to_float32)
        write_row(from, factor, w.head_dim, w.accumulate, static_cast<float*>(w.to) + row * w.stride);
      else
        write_row(from, factor, w.head_dim, w.accumulate, static_cast<Storage*>(w.to) + row * w.stride);
    }
  }
};

/// The table that an instruction set exports.
template <class Isa>
constexpr AttentionTileKernels attention_tile_kernels = {
    .strip_rows = Isa::rows,
    .panel_keys = 2 * Isa::lanes,
    .word_elements = Isa::pack,
    .stage = AttentionPack<Isa>::stage,
    .pack_transposed = AttentionPack<Isa>::pack_transposed,
    .pack_panels = AttentionPack<Isa>::pack_panels,
    .forward_tile = AttentionTile<Isa>::forward_tile,
    .backward_tile = AttentionTile<Isa>::backward_tile,
    .write_rows = AttentionPack<Isa>::write_rows,
};

}  // namespace
}  // namespace longhaul::cpu
