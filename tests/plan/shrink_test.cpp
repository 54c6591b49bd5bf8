// What --shrink keeps of heads, lengths and windows.
#include "plan/shrink.h"

#include <catch2/catch.hpp>
#include <numeric>

#include "plan/mesh.h"

using namespace longhaul;

namespace {

ResolvedParallelism split(std::int64_t ulysses, std::int64_t ring, TokenOrder order) {
  ResolvedParallelism parallel;
  parallel.ulysses = ulysses;
  parallel.ring = ring;
  parallel.token_order = ring > 1 ? order : TokenOrder::contiguous;
  return parallel;
}

std::int64_t pieces_back(const ResolvedParallelism& parallel, std::int64_t sequence, std::int64_t window) {
  const std::int64_t pieces = parallel.ring * (parallel.token_order == TokenOrder::zigzag ? 2 : 1);
  const std::int64_t c = padded_sequence(parallel, sequence) / pieces;
  std::int64_t back = 0;
  while (window > 0 && back * c < window - 1) ++back;  // the first token of a piece sees window - 1 before it
  return window == 0 ? -1 : back;
}

}  // namespace

TEST_CASE("fewer heads keep their ratio and how KV heads meet the ranks") {
  for (const std::int64_t u : {1, 2, 3, 4, 6, 8, 16, 64})
    for (const std::int64_t kv_heads : {1, 2, 3, 4, 8, 12, 32, 96})
      for (const std::int64_t ratio : {1, 2, 3, 4, 8, 16}) {
        if (kv_heads * ratio % u != 0) continue;
        const HeadCounts small = smaller_heads(split(u, 1, TokenOrder::contiguous), {kv_heads * ratio, kv_heads});
        INFO(u << " ranks, " << kv_heads * ratio << ":" << kv_heads << " -> " << small.heads << ":" << small.kv_heads);
        CHECK(small.heads == small.kv_heads * ratio);
        CHECK(small.heads % u == 0);
        CHECK(small.kv_heads <= kv_heads);
        // Repeated as often: to the least common multiple with the ranks.
        CHECK(std::lcm(small.kv_heads, u) / small.kv_heads == std::lcm(kv_heads, u) / kv_heads);
        CHECK((small.kv_heads > std::gcd(kv_heads, u)) >= (kv_heads % (2 * u) == 0));
      }
  CHECK(smaller_heads(split(8, 1, TokenOrder::contiguous), {128, 128}).heads == 16);
}

TEST_CASE("layers with a window keep what their own split needs") {
  ResolvedParallelism parallel = split(4, 2, TokenOrder::contiguous);
  parallel.window_layers = SequenceSplit{1, 1, 8};
  CHECK(smaller_heads(parallel, {32, 8}).kv_heads == 8);
  CHECK(smaller_heads(parallel, {7, 7}, true).heads == 2);  // need not divide by 4
  CHECK(smaller_heads(parallel, {32, 8}, true).kv_heads == 2);
  // Pieces of an eighth of the sequence, not of a half: 513 tokens reach one of 1024 / 8 in four.
  const auto windows = smaller_windows(parallel, 1024, 64, {513});
  CHECK((windows[0] - 2) / 8 == (513 - 2) / 128);
}

TEST_CASE("shorter sequences keep their padding, windows how far they reach") {
  for (const std::int64_t u : {1, 2, 4})
    for (const std::int64_t ring : {1, 2, 3, 8})
      for (const TokenOrder order : {TokenOrder::contiguous, TokenOrder::zigzag})
        for (const std::int64_t sequence :
             {std::int64_t{5}, std::int64_t{40}, std::int64_t{1000}, std::int64_t{131072}}) {
          const auto parallel = split(u, ring, order);
          const std::int64_t small = smaller_sequence(parallel, sequence);
          INFO(u << " x " << ring << ", S " << sequence << " -> " << small);
          CHECK(small >= 1);
          CHECK(small <= sequence);
          CHECK(small <= 32 + 16 * u * ring);
          CHECK(padded_sequence(parallel, small) - small == padded_sequence(parallel, sequence) - sequence);
          if (sequence < 1000) continue;
          const std::vector<std::int64_t> windows = {0, 1, 2, 100, 128, 512, 513, sequence / 3, sequence, sequence + 7};
          const auto smaller = smaller_windows(parallel, sequence, small, windows);
          for (std::size_t i = 0; i < windows.size(); ++i) {
            INFO("window " << windows[i] << " -> " << smaller[i]);
            CHECK((smaller[i] == 0) == (windows[i] == 0));
            CHECK(pieces_back(parallel, small, smaller[i]) == pieces_back(parallel, sequence, windows[i]));
            for (std::size_t j = 0; j < windows.size(); ++j)
              if (windows[i] >= windows[j]) CHECK(smaller[i] >= smaller[j]);
          }
        }
  // Windows that differ still do.
  const auto two = smaller_windows(split(1, 2, TokenOrder::contiguous), 65536, 32, {4096, 512, 4096});
  CHECK(two[0] > two[1]);
  CHECK(two[2] == two[0]);
}
