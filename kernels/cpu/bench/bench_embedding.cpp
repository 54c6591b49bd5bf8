// Embedding and its gradient; rotary position embedding.
//
//   n, v, d          tokens, vocabulary, elements of a row
//   heads, d         (rope) heads of d elements, of which the first `rotary` turn
//   fused            (rope) 1: x is a slice of fused q, k, v: rows lie 3 heads d elements apart
//   inverse          (rope) 1: the gradient
#include <cmath>

#include "base/error.h"
#include "kernels/cpu/bench/case.h"
#include "kernels/cpu/embedding.h"
#include "kernels/cpu/rope.h"

namespace longhaul::cpu::bench {
namespace {

void embedding(Case& c) {
  const std::int64_t n = c.size("n"), v = c.size("v"), d = c.size("d");
  const std::int32_t* tokens = c.integers(n, v).data();
  const Tensor &table = c.input(v * d), &y = c.output(n * d, 0.5);
  c.call = [=, &table, &y](Side side) {
    const Embedding p{side.type(y), tokens, side(table), side(y), n, v, d};
    side.exact ? reference::embedding(p) : longhaul::cpu::embedding(side.pool, p);
  };
  c.bytes = 2.0 * static_cast<double>(y.narrow.bytes());
}

void embedding_gradient(Case& c) {
  const std::int64_t n = c.size("n"), v = c.size("v"), d = c.size("d");
  const std::int32_t* tokens = c.integers(n, v).data();
  const Tensor &dy = c.input(n * d),
               &dtable = c.output_of(c.dtype == DType::float64 ? DType::float64 : DType::float32, v * d);
  c.scratch_bytes = embedding_gradient_scratch_bytes(n, v);
  c.call = [=, &dy, &dtable](Side side) {
    const EmbeddingGradient p{side.type(dy), tokens, side(dy), side.type(dtable), side(dtable), n, v, d, side.scratch};
    side.exact ? reference::embedding_gradient(p) : longhaul::cpu::embedding_gradient(side.pool, p);
  };
  c.tolerance = 64;
  c.bytes = static_cast<double>(dy.narrow.bytes() + dtable.narrow.bytes());
}

// Tables are float32, or float64 for float64 activations.
DType table_type(const Case& c) {
  return c.dtype == DType::float64 ? DType::float64 : DType::float32;
}
std::int64_t rotary_of(const Case& c) {
  const std::int64_t rotary = c.size("rotary");
  if (rotary < 2 || rotary % 2 || rotary > c.size("d")) fail("rotary={}; allowed are even sizes from 2 to d", rotary);
  return rotary;
}

void rope_table(Case& c) {
  const std::int64_t n = c.size("n"), rotary = rotary_of(c);
  const std::int32_t* position = c.integers(n, 131072).data();
  std::vector<double> frequency(static_cast<std::size_t>(rotary / 2));
  for (std::size_t i = 0; i < frequency.size(); ++i)
    frequency[i] = std::pow(500000.0, -2.0 * static_cast<double>(i) / static_cast<double>(rotary));
  const Tensor& table = c.output_of(table_type(c), n * rotary);
  c.call = [=, &table](Side side) {
    const RopeTable p{position, frequency.data(), 1.25, side.type(table), side(table), n, rotary};
    side.exact ? reference::rope_table(p) : longhaul::cpu::rope_table(side.pool, p);
  };
  c.bytes = static_cast<double>(table.narrow.bytes());
}

void rope(Case& c) {
  const std::int64_t n = c.size("n"), heads = c.size("heads"), d = c.size("d"), rotary = rotary_of(c);
  const bool fused = c.flag("fused"), inverse = c.flag("inverse");
  const Tensor &x = c.input((fused ? 3 : 1) * n * heads * d), &table = c.input_of(table_type(c), n * rotary),
               &y = c.output(n * heads * d);
  c.call = [=, &x, &table, &y](Side side) {
    const Rope p{side.type(x), side(x), side(y), side.type(table),          side(table), n,
                 heads,        d,       rotary,  fused ? 3 * heads * d : 0, 0,           inverse};
    side.exact ? reference::rope(p) : longhaul::cpu::rope(side.pool, p);
  };
  c.bytes = 2.0 * static_cast<double>(y.narrow.bytes()) + static_cast<double>(table.narrow.bytes());
}

constexpr const char* defaults = "n=16384 v=50257 d=2048 dtype=float32 threads=1";

}  // namespace

std::vector<Entry> embedding_entries() {
  return {
      {"embedding", {"embedding"}, defaults, embedding},
      {"embedding_gradient", {"embedding_gradient"}, defaults, embedding_gradient},
      {"rope_table", {"rope_table"}, "n=131072 d=128 rotary=128 dtype=float32 threads=1", rope_table},
      {"rope", {"rope"}, "n=16384 heads=16 d=128 rotary=128 fused=0 inverse=0 dtype=float32 threads=1", rope},
  };
}

}  // namespace longhaul::cpu::bench
