// Inner loops of sums, scalings, biases and casts.
#pragma once
#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/reductions.h"
#include "kernels/cpu/vector.h"

namespace longhaul::cpu {
namespace {

template <typename T>
LONGHAUL_LOOP void add_range(const Add& p, std::int64_t begin, std::int64_t end) {
  using A = accumulate_t<T>;
  T* y = static_cast<T*>(p.y);
  bool streamed = past_caches(y, p.count * static_cast<std::int64_t>(sizeof(T)), 64);
  for (int operand = 0; operand < p.operands; ++operand) streamed = streamed && p.inputs[operand] != p.y;
  if (p.operands == 2) {
    const T* a = static_cast<const T*>(p.inputs[0]) + begin;
    const T* b = static_cast<const T*>(p.inputs[1]) + begin;
    each_vector_to<A>(y + begin, end - begin, streamed,
                      [&](std::int64_t i, auto part) { return load(a + i, part) + load(b + i, part); });
    return settle(streamed);
  }
  each_vector_to<A>(y + begin, end - begin, streamed, [&](std::int64_t i, auto part) {
    Lanes<A> sum = load(static_cast<const T*>(p.inputs[0]) + begin + i, part);
    for (int operand = 1; operand < p.operands; ++operand)
      sum += load(static_cast<const T*>(p.inputs[operand]) + begin + i, part);
    return sum;
  });
  settle(streamed);
}

template <typename T>
LONGHAUL_LOOP void scale_range(const Scale& p, std::int64_t begin, std::int64_t end) {
  using A = accumulate_t<T>;
  const A factor = static_cast<A>(p.factor * (p.factor_pointer ? *p.factor_pointer : 1.0));
  const T* x = static_cast<const T*>(p.x) + begin;
  T* y = static_cast<T*>(p.y) + begin;
  const bool streamed = past_caches(p.y, p.count * static_cast<std::int64_t>(sizeof(T)), 64, p.x);
  each_vector_to<A>(y, end - begin, streamed, [&](std::int64_t i, auto part) { return load(x + i, part) * factor; });
  settle(streamed);
}

template <typename T, typename W>
LONGHAUL_LOOP void add_bias_rows(const AddBias& p, std::int64_t begin, std::int64_t end) {
  using A = accumulate_t<T>;
  const W* bias = static_cast<const W*>(p.bias);
  const std::int64_t row_bytes = p.d * static_cast<std::int64_t>(sizeof(T));
  const bool streamed = past_caches(p.y, p.rows * row_bytes, row_bytes, p.x);
  for (std::int64_t row = begin; row < end; ++row) {
    const T* x = static_cast<const T*>(p.x) + row * p.d;
    T* y = static_cast<T*>(p.y) + row * p.d;
    each_vector_to<A>(y, p.d, streamed,
                      [&](std::int64_t i, auto part) { return load(x + i, part) + load_as<A>(bias + i, part); });
  }
  settle(streamed);
}
template <typename T>
LONGHAUL_LOOP void add_bias_range(const AddBias& p, std::int64_t begin, std::int64_t end) {
  p.bias_type == p.type ? add_bias_rows<T, T>(p, begin, end) : add_bias_rows<T, float>(p, begin, end);
}

template <typename T>
LONGHAUL_LOOP void sum_rows_range(const SumRows& p, std::int64_t begin, std::int64_t end, void* out) {
  using A = accumulate_t<T>;
  A* sum = static_cast<A*>(out);
  for (std::int64_t i = 0; i < p.d; ++i) sum[i] = 0;
  // Row after row: sums stay in the cache, and memory is read as one stream, which it delivers twice as fast as four.
  for (std::int64_t row = begin; row < end; ++row) {
    const T* x = static_cast<const T*>(p.x) + row * p.d;
    constexpr std::int64_t step = lanes_in<A>, group = 8 * step;
    std::int64_t j = 0;
    for (; j + group <= p.d; j += group) {  // memory first: its loads must not wait for those of the sums
      Lanes<A> values[8];
#pragma GCC unroll 8
      for (int k = 0; k < 8; ++k) values[k] = load(x + j + k * step, Full{});
#pragma GCC unroll 8
      for (int k = 0; k < 8; ++k) store(sum + j + k * step, load(sum + j + k * step, Full{}) + values[k], Full{});
    }
    each_vector<A>(p.d - j, [&](std::int64_t i, auto part) {
      store(sum + j + i, load(sum + j + i, part) + load(x + j + i, part), part);
    });
  }
}

template <typename From, typename To>
LONGHAUL_LOOP void cast_elements(const From* x, To* y, std::int64_t count, bool streamed) {
  // Vectors are counted in the wider arithmetic type, so that double to float rounds once.
  using A = std::conditional_t<std::is_same_v<From, double> || std::is_same_v<To, double>, double, float>;
  each_vector_to<A>(y, count, streamed, [&](std::int64_t i, auto part) { return load_as<A>(x + i, part); });
  settle(streamed);
}
template <typename T>
LONGHAUL_LOOP void cast_range(const Cast& p, std::int64_t begin, std::int64_t end) {
  const T* x = static_cast<const T*>(p.x) + begin;
  const std::int64_t size = p.to == DType::float64 ? 8 : p.to == DType::float32 ? 4 : 2;
  const bool streamed = past_caches(p.y, p.count * size, 64, p.x);
  if (p.to == DType::float64)
    cast_elements(x, static_cast<double*>(p.y) + begin, end - begin, streamed);
  else if (p.to == DType::float32)
    cast_elements(x, static_cast<float*>(p.y) + begin, end - begin, streamed);
  else
    cast_elements(x, static_cast<bfloat16*>(p.y) + begin, end - begin, streamed);
}

template <typename T>
LONGHAUL_LOOP void sum_of_squares_range(const SumOfSquares& p, std::int64_t begin, std::int64_t end, void* out) {
  using A = accumulate_t<T>;
  const T* x = static_cast<const T*>(p.x);
  double total = 0;
  for (std::int64_t block = begin; block < end; block += 4096) {
    Lanes<A> squares[4] = {};
    each_vector_of_4<A>(end - block < 4096 ? end - block : 4096, [&](std::int64_t i, auto part, int slot) {
      const Lanes<A> value = load(x + block + i, part);
      squares[slot] += value * value;
    });
    total += static_cast<double>(sum_lanes_of_4<A>(squares));
  }
  *static_cast<double*>(out) = total;
}

/// Used by embedding_gradient: see VectorTable.
template <typename T>
LONGHAUL_LOOP void sum_gathered_range(const void* rows, std::int64_t row_stride, const std::int32_t* indices,
                                      std::int64_t count, std::int64_t begin, std::int64_t end, void* out) {
  using A = accumulate_t<T>;
  const T* from = static_cast<const T*>(rows) + begin;
  A* sum = static_cast<A*>(out);
  constexpr int vectors = vector_bytes == 64 ? 16 : 8;  // of sums, held in registers
  constexpr std::int64_t step = vectors * lanes_in<A>;
  std::int64_t j = 0;
  for (; j + step <= end - begin; j += step) {
    Lanes<A> sums[vectors] = {};
    for (std::int64_t occurrence = 0; occurrence < count; ++occurrence) {
      const T* row = from + indices[occurrence] * row_stride + j;
#pragma GCC unroll 16
      for (int k = 0; k < vectors; ++k) sums[k] += load(row + k * lanes_in<A>, Full{});
    }
#pragma GCC unroll 16
    for (int k = 0; k < vectors; ++k) store(sum + j + k * lanes_in<A>, sums[k], Full{});
  }
  each_vector<A>(end - begin - j, [&](std::int64_t i, auto part) {
    Lanes<A> one = {};
    for (std::int64_t occurrence = 0; occurrence < count; ++occurrence)
      one += load(from + indices[occurrence] * row_stride + j + i, part);
    store(sum + j + i, one, part);
  });
}

}  // namespace
}  // namespace longhaul::cpu
