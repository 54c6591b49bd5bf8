#include "passes/token_order.h"

#include <algorithm>

#include "base/error.h"

namespace longhaul {

int order_ranks(const Mesh& mesh, const Placement& placement) {
  return mesh.count(mesh.axes(placement.sequence_axes).without(mesh.axes({"ulysses"}).set()));
}

std::vector<TokenRun> token_runs(TokenOrder order, int ranks, std::int64_t padded, std::int64_t first,
                                 std::int64_t slots) {
  LONGHAUL_CHECK(order != TokenOrder::balanced, "a permuted order comes from the loader");
  if (order == TokenOrder::contiguous || ranks == 1) return {{first, first, slots}};
  // Rank i of n holds chunks i and 2n − 1 − i; ranks that share what it holds have consecutive slots of it.
  const std::int64_t chunk = padded / (2 * ranks);
  std::vector<TokenRun> runs;
  for (std::int64_t slot = first; slot < first + slots;) {
    const std::int64_t half = slot / chunk, i = half / 2, within = slot % chunk;
    const std::int64_t place = half % 2 ? 2 * ranks - 1 - i : i;
    const std::int64_t length = std::min(chunk - within, first + slots - slot);
    const TokenRun run{slot, place * chunk + within, length};
    if (!runs.empty() && runs.back().index + runs.back().length == run.index)
      runs.back().length += length;  // the last rank's two chunks
    else
      runs.push_back(run);
    slot += length;
  }
  return runs;
}

std::optional<std::vector<BlockRows>> reached_rows(TokenOrder order, int ranks, std::int64_t padded, int blocks,
                                                   std::int64_t window) {
  LONGHAUL_CHECK(window >= 1 && padded % blocks == 0, "a window of {} over {} blocks of {}", window, blocks, padded);
  if (order == TokenOrder::balanced) return std::nullopt;
  const std::int64_t block = padded / blocks;
  std::vector<std::vector<TokenRun>> held;
  for (int i = 0; i < blocks; ++i) held.push_back(token_runs(order, ranks, padded, i * block, block));

  std::vector<BlockRows> reached;
  std::int64_t all = 0;
  for (int step = blocks - 1; step > 0; --step) {
    std::vector<BlockRows> parts;
    for (int i = 0; i < blocks; ++i) {
      const int k = (i - step + blocks) % blocks;
      for (const TokenRun& queries : held[static_cast<std::size_t>(i)])
        for (const TokenRun& keys : held[static_cast<std::size_t>(k)]) {
          const std::int64_t begin = std::max(keys.index, queries.index - (window - 1)),
                             end = std::min(keys.index + keys.length, queries.index + queries.length);
          if (begin < end) parts.push_back({step, keys.slot - k * block + begin - keys.index, end - begin});
        }
    }
    std::sort(parts.begin(), parts.end(), [](const BlockRows& a, const BlockRows& b) { return a.from < b.from; });
    std::size_t kept = 0;
    for (const BlockRows& part : parts) {
      if (kept && part.from <= parts[kept - 1].from + parts[kept - 1].rows)
        parts[kept - 1].rows = std::max(parts[kept - 1].rows, part.from + part.rows - parts[kept - 1].from);
      else
        parts[kept++] = part;
    }
    parts.resize(kept);
    for (const BlockRows& part : parts) all += part.rows;
    reached.insert(reached.end(), parts.begin(), parts.end());
  }
  if (all == (blocks - 1) * block) return std::nullopt;
  return reached;
}

}  // namespace longhaul
