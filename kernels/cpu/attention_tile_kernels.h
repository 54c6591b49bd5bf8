// The seam between the tile loop (attention_forward.cpp and attention_backward.cpp, ordinary code) and the inner
// kernels of an instruction set (attention_tile.h, instantiated in attention_<isa>.cpp). Everything an instruction set
// gives is a constant table of functions, so that asking for it runs none of its code.
//
// A word is 32 bits: one float, or two bfloat16 that are neighbours along the dimension a product sums over. The query
// rows of a block are cut into strips (the rows of the register tile) and its keys into panels (its columns); the mask
// is settled by bounds for each strip and panel, and only where it must be is it compared element by element.
#pragma once
#include <cstdint>

#include "base/dtype.h"

namespace longhaul::cpu {

/// Rows of query blocks are multiples of this (of every strip height); so are all paddings of queries.
constexpr int query_group = 48;
/// Backward's blocks hold at most this many queries; forward's may hold more.
constexpr int backward_query_block = 192;
/// Key blocks hold this many keys, or fewer: a multiple of key_group (of every panel width and strip height).
constexpr int key_block = 192;
constexpr int key_group = 96;

/// Widths of packed rows. Padding is zero.
struct TileWidths {
  int head_dim;      ///< elements
  int padded_dim;    ///< head_dim rounded up to 16: the row length of float tiles, and the columns of panels
  int words;         ///< words that hold head_dim elements
  int staged_words;  ///< words of a staged row: at least padded_dim elements, a multiple of 16 words
};

/// The visible interval of a block of queries and a block of keys.
struct TileMask {
  const std::int32_t* query_last;   ///< [queries]: index of the last visible key (its own); INT_MIN beyond the end
  const std::int32_t* query_first;  ///< [queries]: index of the first visible key; INT_MAX beyond the end
  const std::int32_t* key_index;    ///< [keys]; INT_MAX beyond the end
  const std::int32_t* strips;       ///< [strip_count][4]: min and max of query_last, min and max of query_first
  const std::int32_t* panels;       ///< [panel_count][2]: min and max of key_index
  int strip_count;
  int panel_count;
};

/// Rows that will be wanted after a tile: its kernel asks for them bit by bit between its products. Rows of a head lie
/// far apart, often at a stride that uses few sets of the caches, and no hardware prefetcher guesses them.
struct RowPrefetch {
  const void* rows = nullptr;  ///< null: nothing
  std::int64_t stride = 0;     ///< bytes
  int count = 0;
  int bytes = 0;  ///< of a row
};

/// One block of queries of one head against one block of keys, the running softmax updated.
struct ForwardTile {
  TileWidths widths;
  TileMask mask;
  float scale;
  float soft_cap;            ///< of the scaled logits; 0: none
  const void* q;             ///< staged rows
  const void* k_transposed;  ///< transposed panels
  const void* v_panels;      ///< panels
  float* out;                ///< [queries][padded_dim], not yet divided by sum
  float* maximum;            ///< [queries], in units of log 2; lowest_logit: nothing seen
  float* sum;                ///< [queries]
  float* logits;             ///< scratch [query_group][key_block]
  void* weights;             ///< scratch [query_group][key_block] elements of words; may be `logits` for floats
  RowPrefetch prefetch[2];
};

/// One block of queries of one head against one block of keys: dq is written, dk and dv are added to; dq and dk lack
/// the factor `scale`.
struct BackwardTile {
  TileWidths widths;
  TileMask mask;
  float scale;
  float soft_cap;                           ///< of the scaled logits; 0: none
  const void *q, *dout;                     ///< staged rows
  const void *q_panels, *dout_panels;       ///< panels
  const void *k_transposed, *v_transposed;  ///< transposed panels
  const void* k_panels;                     ///< panels
  const float* negative_log_sum_exp;        ///< [queries], in units of log 2
  const float* negative_delta;              ///< [queries]
  float *dq, *dk, *dv;                      ///< [queries or keys][padded_dim]
  void* weights;      ///< scratch [queries / elements of a word][key_block] words, paired over queries
  void* dlogits;      ///< the same
  void* dlogit_rows;  ///< scratch [queries][key_block / elements of a word] words, paired over keys; may be `dlogits`
                      ///< for floats
  RowPrefetch prefetch[3];
};

/// Where finished rows go: to[row * stride + d] = or += tile[row][d] * factor (* row_factor[row] when given).
struct WriteRows {
  const float* tile;
  int tile_stride;
  int rows;
  int head_dim;
  float factor;
  const float* row_factor;
  void* to;
  std::int64_t stride;  ///< elements
  bool to_float32;      ///< else the storage type
  bool accumulate;      ///< float32 only
};

/// A logit that stands for a hidden key; half of it bounds what a logit may be.
constexpr float lowest_logit = -1e30f;

struct AttentionTileKernels {
  int strip_rows;
  int panel_keys;
  int word_elements;
  /// Copies rows of head_dim elements, `stride` elements apart, to staged rows; zeroes `padded_rows - rows` more.
  void (*stage)(const void* from, std::int64_t stride, int rows, int padded_rows, const TileWidths&, void* staged);
  /// Right-hand operand of a product that sums over head_dim: [rows / panel_keys][words][panel_keys].
  void (*pack_transposed)(const void* staged, int rows, const TileWidths&, void* packed);
  /// Right-hand operand of a product that sums over rows: panels of panel_keys columns (the last may be half as wide),
  /// each [rows / word_elements][columns].
  void (*pack_panels)(const void* staged, int rows, const TileWidths&, void* packed);
  void (*forward_tile)(const ForwardTile&);
  void (*backward_tile)(const BackwardTile&);
  void (*write_rows)(const WriteRows&);
};

}  // namespace longhaul::cpu
