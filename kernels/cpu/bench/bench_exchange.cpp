// What happens around exchanges: packing and unpacking, KV heads repeated and summed, rows of blocks added.
//
//   s, heads, d      tokens, heads and elements of a head
//   ranks            (pack) so many blocks of heads, each then contiguous
//   inverse          (pack) 1: unpacks
//   kv               (expand_heads, reduce_heads) KV heads
//   b, blocks        (add_rows) sequences of so many blocks of s tokens each
//   part, from, step (add_rows) tokens of a block of the part, where they are added, and by how many blocks it is moved
#include "base/error.h"
#include "kernels/cpu/bench/case.h"
#include "kernels/cpu/block_rows.h"
#include "kernels/cpu/copy_blocks.h"
#include "kernels/cpu/kv_heads.h"

namespace longhaul::cpu::bench {
namespace {

void pack(Case& c) {
  const std::int64_t s = c.size("s"), heads = c.size("heads"), d = c.size("d"), ranks = c.size("ranks");
  if (ranks < 1 || heads % ranks) fail("ranks={} does not divide heads={}", ranks, heads);
  const bool inverse = c.flag("inverse");
  const Tensor &x = c.input(s * heads * d), &y = c.output(s * heads * d, 0.5);
  c.call = [=, &x, &y](Side side) {
    const std::int64_t part = heads / ranks * d;
    if (side.exact) {
      for (std::int64_t rank = 0; rank < ranks; ++rank)
        for (std::int64_t row = 0; row < s; ++row)
          for (std::int64_t i = 0; i < part; ++i) {
            const std::int64_t apart = row * heads * d + rank * part + i, packed = (rank * s + row) * part + i;
            static_cast<double*>(side(y))[inverse ? apart : packed] = x.wide_at(inverse ? packed : apart);
          }
      return;
    }
    const auto bytes = static_cast<std::int64_t>(size_of(x.type));
    BlockCopy p{side(x), side(y), {1, 1, s, ranks}, {}, {}, part * bytes};
    p.source_strides = {0, 0, heads * d * bytes, part * bytes};
    p.target_strides = {0, 0, part * bytes, s * part * bytes};
    if (inverse) std::swap(p.source_strides, p.target_strides);
    copy_blocks(side.pool, p);
  };
  c.bytes = 2.0 * static_cast<double>(x.narrow.bytes());
}

template <bool expand>
void kv_heads(Case& c) {
  const std::int64_t s = c.size("s"), heads = c.size("heads"), kv = c.size("kv"), d = c.size("d");
  if (kv < 1 || heads % kv) fail("kv={} does not divide heads={}", kv, heads);
  const Tensor &x = c.input(s * (expand ? kv : heads) * d), &y = c.output(s * (expand ? heads : kv) * d);
  c.call = [=, &x, &y](Side side) {
    if (!side.exact) {
      const KvHeads p{side.type(x), side(x), side.type(y), side(y), s, heads, kv, d};
      expand ? expand_heads(side.pool, p) : reduce_heads(side.pool, p);
      return;
    }
    auto* to = static_cast<double*>(side(y));
    std::fill_n(to, y.count, 0.0);
    for (std::int64_t i = 0; i < s * heads * d; ++i) {
      const std::int64_t row = i / (heads * d), head = i / d % heads,
                         shared = (row * kv + head / (heads / kv)) * d + i % d;
      to[expand ? i : shared] += x.wide_at(expand ? shared : i);
    }
  };
  c.bytes = static_cast<double>(x.narrow.bytes() + y.narrow.bytes());
}

void add_rows(Case& c) {
  const std::int64_t b = c.size("b"), blocks = c.size("blocks"), s = c.size("s"), part = c.size("part"),
                     from = c.size("from"), step = c.size("step"), row = c.size("heads") * c.size("d");
  if (part < 1 || from < 0 || from + part > s) fail("part={} from={} is not inside s={}", part, from, s);
  if (step < 0 || step >= blocks) fail("step={} is not below blocks={}", step, blocks);
  const Tensor& y = c.input(b * blocks * part * row);
  const Tensor& x = c.updated(c.input(b * blocks * s * row));
  c.call = [=, &x, &y](Side side) {
    if (!side.exact) {
      cpu::add_rows(side.pool, {x.type, side(x), side(y), b, blocks, s, part, row, from, step});
      return;
    }
    auto* to = static_cast<double*>(side(x));
    for (std::int64_t i = 0; i < b * blocks; ++i) {
      const std::int64_t other = i / blocks * blocks + (i % blocks + blocks - step) % blocks;
      for (std::int64_t k = 0; k < part * row; ++k) to[(i * s + from) * row + k] += y.wide_at(other * part * row + k);
    }
  };
  c.bytes = 3.0 * static_cast<double>(y.narrow.bytes());
}

constexpr const char* heads = "s=16384 heads=32 kv=8 d=64 dtype=float32 threads=1";

}  // namespace

std::vector<Entry> exchange_entries() {
  return {
      {"pack", {"copy_blocks"}, "s=16384 heads=16 d=128 ranks=8 inverse=0 dtype=float32 threads=1", pack},
      {"expand_heads", {"expand_heads"}, heads, kv_heads<true>},
      {"reduce_heads", {"reduce_heads"}, heads, kv_heads<false>},
      {"add_rows",
       {"add_rows"},
       "b=1 blocks=1 s=16384 part=4095 from=12289 step=0 heads=8 d=128 dtype=float32 threads=1",
       add_rows},
  };
}

}  // namespace longhaul::cpu::bench
