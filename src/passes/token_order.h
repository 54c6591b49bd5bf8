// Which tokens lie where, and which of them a window reaches: the arithmetic of TokenOrder.
#pragma once
#include <cstdint>
#include <optional>
#include <vector>

#include "ir/mesh.h"
#include "passes/pass.h"

namespace longhaul {

/// Among how many ranks the token order deals out a sequence: those along the sequence axes outside "ulysses", whose
/// ranks share what one of these holds.
int order_ranks(const Mesh& mesh, const Placement& placement);

/// `length` tokens that follow each other in the sequence and in the buffers: slot + i holds the token of place index +
/// i.
struct TokenRun {
  std::int64_t slot = 0, index = 0, length = 0;
  bool operator==(const TokenRun&) const = default;
};

/// The tokens of slots [first, first + slots) of the buffers of all ranks laid together, in the order of the slots.
/// `padded` tokens are dealt out among `ranks` (order_ranks), which divides them; 2 · ranks does under zigzag. Throws
/// std::logic_error for a balanced order, which only the loader knows.
std::vector<TokenRun> token_runs(TokenOrder order, int ranks, std::int64_t padded, std::int64_t first,
                                 std::int64_t slots);

/// Rows [from, from + rows) of a block.
struct BlockRows {
  int step = 0;
  std::int64_t from = 0, rows = 0;
  bool operator==(const BlockRows&) const = default;
};

/// The sequence's slots cut in `blocks` equal blocks: which rows of block (i − step) mod blocks some query of block i
/// reaches with a window of `window` >= 1 keys, for any i: for each step from the last down to 1, in the order of the
/// rows, joined where they touch. Documents are not looked at; they only shorten what a query sees. Nothing when all
/// rows of all blocks are reached, or when the order is balanced and anything may be.
std::optional<std::vector<BlockRows>> reached_rows(TokenOrder order, int ranks, std::int64_t padded, int blocks,
                                                   std::int64_t window);

}  // namespace longhaul
