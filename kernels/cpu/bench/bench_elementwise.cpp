// Sums, scalings, biases, casts, copies and fills.
//
//   count        elements; or rows, d: rows of d elements
//   operands     (add) so many addends
//   bias         dtype of the bias: same, or float32
//   to           (cast) the other dtype
#include <cstring>

#include "base/error.h"
#include "kernels/cpu/bench/case.h"
#include "kernels/cpu/elementwise.h"

namespace longhaul::cpu::bench {
namespace {

void add(Case& c) {
  const std::int64_t count = c.size("count"), operands = c.size("operands");
  if (operands < 1 || operands > 16) fail("operands={}; allowed are 1 to 16", operands);
  std::vector<const Tensor*> inputs;
  for (std::int64_t i = 0; i < operands; ++i) inputs.push_back(&c.input(count));
  const Tensor& y = c.output(count);
  c.call = [=, &y](Side side) {
    const void* pointers[16];
    for (std::size_t i = 0; i < inputs.size(); ++i) pointers[i] = side(*inputs[i]);
    const Add p{side.type(y), pointers, static_cast<int>(operands), side(y), count};
    side.exact ? reference::add(p) : longhaul::cpu::add(side.pool, p);
  };
  c.bytes = static_cast<double>(operands + 1) * static_cast<double>(y.narrow.bytes());
}

void scale(Case& c) {
  const std::int64_t count = c.size("count");
  const Tensor &x = c.input(count), &y = c.output(count);
  c.call = [=, &x, &y](Side side) {
    const double factor = -0.75;
    const Scale p{side.type(y), side(x), side(y), count, 1.7, &factor};
    side.exact ? reference::scale(p) : longhaul::cpu::scale(side.pool, p);
  };
  c.bytes = 2.0 * static_cast<double>(y.narrow.bytes());
}

void add_bias(Case& c) {
  const std::int64_t rows = c.size("rows"), d = c.size("d");
  const Tensor &x = c.input(rows * d), &bias = c.input_of(c.type("bias"), d), &y = c.output(rows * d);
  c.call = [=, &x, &bias, &y](Side side) {
    const AddBias p{side.type(x), side(x), side.type(bias), side(bias), side(y), rows, d};
    side.exact ? reference::add_bias(p) : longhaul::cpu::add_bias(side.pool, p);
  };
  c.bytes = 2.0 * static_cast<double>(y.narrow.bytes());
}

void sum_rows(Case& c) {
  const std::int64_t rows = c.size("rows"), d = c.size("d");
  const Tensor &x = c.input(rows * d),
               &out = c.output_of(c.dtype == DType::float64 ? DType::float64 : DType::float32, d);
  c.scratch_bytes = sum_rows_scratch_bytes(c.dtype, rows, d);
  c.call = [=, &x, &out](Side side) {
    const SumRows p{side.type(x), side(x), side.type(out), side(out), rows, d, side.scratch};
    side.exact ? reference::sum_rows(p) : longhaul::cpu::sum_rows(side.pool, p);
  };
  c.tolerance = 64;
  c.bytes = static_cast<double>(x.narrow.bytes());
}

void cast(Case& c) {
  const std::int64_t count = c.size("count");
  const Tensor &x = c.input(count), &y = c.output_of(c.type("to"), count);
  c.call = [=, &x, &y](Side side) {
    const Cast p{side.type(x), side(x), side.type(y), side(y), count};
    side.exact ? reference::cast(p) : longhaul::cpu::cast(side.pool, p);
  };
  c.bytes = static_cast<double>(x.narrow.bytes() + y.narrow.bytes());
}

void copy(Case& c) {
  const Tensor &x = c.input(c.size("count")), &y = c.output(x.count, 0.5);
  c.call = [&x, &y](Side side) {
    if (side.exact)
      std::memcpy(y.wide.data(), x.wide.data(), x.wide.bytes());
    else
      longhaul::cpu::copy(side.pool, x.narrow.data(), y.narrow.data(), x.narrow.bytes());
  };
  c.bytes = 2.0 * static_cast<double>(y.narrow.bytes());
}

void fill(Case& c) {
  const Tensor& y = c.output(c.size("count"));
  c.call = [&y](Side side) {
    const double value = 1.0 / 3;
    if (side.exact)
      std::fill_n(static_cast<double*>(y.wide.data()), y.count, value);
    else
      longhaul::cpu::fill(side.pool, y.type, value, y.narrow.data(), y.count);
  };
  c.bytes = static_cast<double>(y.narrow.bytes());
}

constexpr const char* vector = "count=33554432 dtype=float32 threads=1";

}  // namespace

std::vector<Entry> elementwise_entries() {
  return {
      {"add", {"add"}, "count=33554432 operands=2 dtype=float32 threads=1", add},
      {"scale", {"scale"}, vector, scale},
      {"add_bias", {"add_bias"}, "rows=16384 d=2048 bias=same dtype=float32 threads=1", add_bias},
      {"sum_rows", {"sum_rows"}, "rows=16384 d=2048 dtype=float32 threads=1", sum_rows},
      {"cast", {"cast"}, "count=33554432 to=bfloat16 dtype=float32 threads=1", cast},
      {"copy", {"copy"}, vector, copy},
      {"fill", {"fill"}, vector, fill},
  };
}

}  // namespace longhaul::cpu::bench
