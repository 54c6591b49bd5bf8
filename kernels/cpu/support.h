// Small helpers that the CPU kernels share.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "base/dtype.h"
#include "base/error.h"
#include "kernels/cpu/thread_pool.h"

namespace longhaul::cpu {

/// `bytes` rounded up to a multiple of 64: every scratch size and every part of a scratch buffer is one, so that parts
/// start on cache lines when the buffer does.
constexpr std::size_t round_to_line(std::size_t bytes) {
  return (bytes + 63) / 64 * 64;
}

/// Converts between the floating storage and arithmetic types; to bfloat16 by way of float.
template <typename To, typename From>
inline To convert(From value) {
  if constexpr (std::is_same_v<To, From>)
    return value;
  else if constexpr (std::is_same_v<From, bfloat16>)
    return static_cast<To>(static_cast<float>(value));
  else if constexpr (std::is_same_v<To, bfloat16>)
    return bfloat16(static_cast<float>(value));
  else
    return static_cast<To>(value);
}

/// Reads an element in the type in which T's arithmetic happens.
template <typename T>
inline accumulate_t<T> read(T value) {
  return convert<accumulate_t<T>>(value);
}

/// Calls function(T{}, W{}) for an activation type T and a parameter type W, which is T or float32.
template <typename Function>
void dispatch_with_parameter(DType type, DType parameter_type, Function&& function) {
  dispatch_floating(type, [&](auto t) {
    if (parameter_type == type)
      function(t, t);
    else if (parameter_type == DType::float32)
      function(t, float{});
    else
      LONGHAUL_CHECK(false, "parameters of type {} beside activations of type {}", name_of(parameter_type),
                     name_of(type));
  });
}

/// Rows of `width` elements that one task takes: enough work to hide a hand-over, little enough to balance.
constexpr std::int64_t rows_per_task(std::int64_t width) {
  return std::max<std::int64_t>(1, 16384 / std::max<std::int64_t>(1, width));
}

/// Parts into which a sum over `rows` rows of `width` elements is cut. It depends on the shape only, so sums do not
/// depend on the number of threads.
constexpr std::int64_t sum_parts(std::int64_t rows, std::int64_t width) {
  return std::clamp<std::int64_t>(rows * width / 65536, 1, std::clamp<std::int64_t>(rows, 1, 32));
}

/// Size of one partial sum of `width` elements in the arithmetic type of `type`, padded to whole cache lines.
constexpr std::size_t partial_bytes(DType type, std::int64_t width) {
  return round_to_line(static_cast<std::size_t>(width) * (type == DType::float64 ? 8 : 4));
}

/// out[i] = sum over parts, in order, of partials[part][i]; the partial sums lie partial_bytes(type, width) apart.
void add_partials(ThreadPool& pool, DType type, const void* partials, std::int64_t parts, std::int64_t width,
                  DType out_type, void* out);

}  // namespace longhaul::cpu
