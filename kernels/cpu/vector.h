// Vectors of whatever width the including file's instruction set has, by GCC's vector extension. Included by
// vector_<isa>.cpp only, which defines LONGHAUL_VECTOR_BYTES. Everything is in an unnamed namespace: code that was
// compiled for one instruction set must never be merged with another's by the linker. For the same reason these files
// use no inline functions of other headers.
#pragma once
#include <cstdint>
#include <type_traits>
#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#include "base/dtype.h"
#include "kernels/cpu/stream.h"

#pragma GCC diagnostic ignored "-Wpsabi"  // vectors are passed between functions of this file only
#if defined(__AVX512F__) && !defined(__clang__)
// GCC 12 takes the deliberately undefined registers of its own AVX-512 header for an error of ours.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

#define LONGHAUL_INLINE inline __attribute__((always_inline))
/// An inner loop: everything it calls is inlined, or the sums that its lambdas hold by reference live in memory.
#define LONGHAUL_LOOP __attribute__((flatten))

namespace longhaul::cpu {
namespace {

constexpr int vector_bytes = LONGHAUL_VECTOR_BYTES;

template <typename A>
struct LanesOf;
template <>
struct LanesOf<float> {
  typedef float type __attribute__((vector_size(vector_bytes)));
  typedef std::int32_t integer __attribute__((vector_size(vector_bytes)));
  typedef std::uint32_t bits __attribute__((vector_size(vector_bytes)));
};
template <>
struct LanesOf<double> {
  typedef double type __attribute__((vector_size(vector_bytes)));
};
/// A vector of float or double.
template <typename A>
using Lanes = typename LanesOf<A>::type;
/// Elements in a vector of A.
template <typename A>
constexpr int lanes_in = vector_bytes / static_cast<int>(sizeof(A));

typedef std::uint16_t HalfWords __attribute__((vector_size(vector_bytes / 2)));
typedef float HalfFloats __attribute__((vector_size(vector_bytes / 2)));
using Bits = LanesOf<float>::bits;
using Integers = LanesOf<float>::integer;

/// A whole vector, or only its first `count` elements (at the end of a row).
struct Full {};
struct Tail {
  std::int64_t count;
};

template <typename A>
LONGHAUL_INLINE Lanes<A> broadcast(A value) {
  return Lanes<A>{} + value;
}

// GCC 12 splits these two conversions into several instructions where one exists (and warns of the unmasked
// intrinsics).
LONGHAUL_INLINE Bits widen(HalfWords words) {
#if defined(__AVX512F__)
  return (Bits)_mm512_maskz_cvtepu16_epi32(0xffff, (__m256i)words);
#elif defined(__AVX2__)
  return (Bits)_mm256_cvtepu16_epi32((__m128i)words);
#else
  return __builtin_convertvector(words, Bits);
#endif
}
LONGHAUL_INLINE HalfWords narrow(Bits bits) {
#if defined(__AVX512F__)
  return (HalfWords)_mm512_maskz_cvtepi32_epi16(0xffff, (__m512i)bits);
#elif defined(__AVX2__)
  const __m256i packed = _mm256_packus_epi32((__m256i)bits, (__m256i)bits);  // every value is below 2^16
  return (HalfWords)_mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08));
#else
  return __builtin_convertvector(bits, HalfWords);
#endif
}

LONGHAUL_INLINE Lanes<float> from_bfloat16(HalfWords words) {
  return (Lanes<float>)(widen(words) << 16);
}
/// Rounds to nearest even; NaN stays NaN. The instruction takes numbers below 2^-126 for 0, the others keep them.
LONGHAUL_INLINE HalfWords to_bfloat16(Lanes<float> value) {
#if defined(__AVX512BF16__)
  return (HalfWords)_mm512_cvtneps_pbh((__m512)value);
#endif
  const Bits word = (Bits)value;
  const Bits rounded = (word + 0x7fffu + ((word >> 16) & 1u)) >> 16;
  const Bits quiet = (word >> 16) | 0x40u;
  const Integers is_nan = value != value;
  return narrow(is_nan ? quiet : rounded);
}

/// Reads lanes_in<A> elements of storage type T into arithmetic type A (T's own, or a conversion between float and
/// double, or bfloat16 to either).
template <typename A, typename T>
LONGHAUL_INLINE Lanes<A> load_as(const T* from, Full) {
  if constexpr (std::is_same_v<A, T>) {
    Lanes<A> value;
    __builtin_memcpy(&value, from, sizeof(value));
    return value;
  } else if constexpr (std::is_same_v<A, float> && std::is_same_v<T, bfloat16>) {
    HalfWords words;
    __builtin_memcpy(&words, from, sizeof(words));
    return from_bfloat16(words);
  } else if constexpr (std::is_same_v<A, double> && std::is_same_v<T, float>) {
    HalfFloats value;
    __builtin_memcpy(&value, from, sizeof(value));
    return __builtin_convertvector(value, Lanes<double>);
  } else {
    Lanes<A> value;
    for (int i = 0; i < lanes_in<A>; ++i) {
      if constexpr (std::is_same_v<T, bfloat16>) {
        const std::uint32_t word = static_cast<std::uint32_t>(from[i].bits) << 16;
        value[i] = static_cast<A>(__builtin_bit_cast(float, word));
      } else {
        value[i] = static_cast<A>(from[i]);
      }
    }
    return value;
  }
}
/// Elements beyond the tail read as zero.
template <typename A, typename T>
LONGHAUL_INLINE Lanes<A> load_as(const T* from, Tail tail) {
  alignas(64) std::conditional_t<std::is_same_v<T, bfloat16>, std::uint16_t, T> buffer[lanes_in<A>] = {};
  for (std::int64_t i = 0; i < tail.count; ++i) __builtin_memcpy(&buffer[i], from + i, sizeof(T));
  return load_as<A>(reinterpret_cast<const T*>(buffer), Full{});
}
template <typename T, typename Part>
LONGHAUL_INLINE Lanes<accumulate_t<T>> load(const T* from, Part part) {
  return load_as<accumulate_t<T>>(from, part);
}

template <typename A, typename T>
LONGHAUL_INLINE void store_as(T* to, Lanes<A> value, Full) {
  if constexpr (std::is_same_v<A, T>) {
    __builtin_memcpy(to, &value, sizeof(value));
  } else if constexpr (std::is_same_v<A, float> && std::is_same_v<T, bfloat16>) {
    const HalfWords words = to_bfloat16(value);
    __builtin_memcpy(static_cast<void*>(to), &words, sizeof(words));
  } else if constexpr (std::is_same_v<A, double> && std::is_same_v<T, float>) {
    const HalfFloats words = __builtin_convertvector(value, HalfFloats);
    __builtin_memcpy(static_cast<void*>(to), &words, sizeof(words));
  } else if constexpr (std::is_same_v<A, float> && std::is_same_v<T, double>) {
    for (int i = 0; i < lanes_in<A>; ++i) to[i] = static_cast<double>(value[i]);
  } else {
    static_assert(std::is_same_v<A, double> && std::is_same_v<T, bfloat16>);
    Lanes<float> narrow{};
    for (int i = 0; i < lanes_in<A>; ++i) narrow[i] = static_cast<float>(value[i]);
    const HalfWords words = to_bfloat16(narrow);
    __builtin_memcpy(static_cast<void*>(to), &words, lanes_in<A> * sizeof(T));
  }
}
template <typename A, typename T>
LONGHAUL_INLINE void store_as(T* to, Lanes<A> value, Tail tail) {
  alignas(64) unsigned char buffer[lanes_in<A> * sizeof(T)];
  store_as<A>(reinterpret_cast<T*>(buffer), value, Full{});
  for (std::int64_t i = 0; i < tail.count; ++i) __builtin_memcpy(to + i, buffer + i * sizeof(T), sizeof(T));
}
template <typename T, typename Part>
LONGHAUL_INLINE void store(T* to, Lanes<accumulate_t<T>> value, Part part) {
  store_as<accumulate_t<T>>(to, value, part);
}

/// Stores a vector past the caches: its line is not read first and displaces nothing. The address is a multiple of the
/// vector's size.
template <typename V>
LONGHAUL_INLINE void stream_vector(void* to, V value) {
#if defined(__AVX512F__)
  if constexpr (sizeof(V) == 64) return _mm512_stream_si512(static_cast<__m512i*>(to), (__m512i)value);
#endif
#if defined(__AVX2__)
  if constexpr (sizeof(V) == 32) return _mm256_stream_si256(static_cast<__m256i*>(to), (__m256i)value);
#endif
  __builtin_memcpy(to, &value, sizeof(value));
}
/// Two vectors that follow each other. Halves of a cache line must not go alone.
template <typename A, typename T>
LONGHAUL_INLINE void stream_two(T* to, Lanes<A> first, Lanes<A> second) {
  if constexpr (std::is_same_v<A, T>) {
    stream_vector(to, first);
    stream_vector(to + lanes_in<A>, second);
  } else if constexpr (std::is_same_v<A, float> && std::is_same_v<T, bfloat16>) {
    typedef std::uint16_t Words __attribute__((vector_size(vector_bytes)));
#if defined(__AVX512BF16__)
    stream_vector(to, (Words)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first));
#else
    const HalfWords halves[2] = {to_bfloat16(first), to_bfloat16(second)};
    Words words;
    __builtin_memcpy(&words, halves, sizeof(words));
    stream_vector(to, words);
#endif
  } else {
    store_as<A>(to, first, Full{});
    store_as<A>(to + lanes_in<A>, second, Full{});
  }
}
/// Streamed stores become visible to other threads in order with what follows.
LONGHAUL_INLINE void settle(bool streamed) {
#if defined(__AVX2__)
  if (streamed) _mm_sfence();
#else
  static_cast<void>(streamed);
#endif
}

/// Sets the elements beyond a tail to `rest`, for reductions.
template <typename A>
LONGHAUL_INLINE Lanes<A> keep(Lanes<A> value, Full, A) {
  return value;
}
/// The value that a store to T keeps.
template <typename T>
LONGHAUL_INLINE Lanes<accumulate_t<T>> as_stored(Lanes<accumulate_t<T>> value) {
  if constexpr (std::is_same_v<T, bfloat16>)
    return from_bfloat16(to_bfloat16(value));
  else
    return value;
}
template <typename A>
LONGHAUL_INLINE Lanes<A> keep(Lanes<A> value, Tail tail, A rest) {
  for (int i = 0; i < lanes_in<A>; ++i)
    if (i >= tail.count) value[i] = rest;
  return value;
}

/// Calls body(offset, Full or Tail) over 0..count-1 in steps of one vector of A.
template <typename A, typename Body>
LONGHAUL_INLINE void each_vector(std::int64_t count, Body body) {
  std::int64_t i = 0;
  for (; i + lanes_in<A> <= count; i += lanes_in<A>) body(i, Full{});
  if (i < count) body(i, Tail{count - i});
}
/// to[i] = body(i, Full or Tail), past the caches if `streamed` (past_caches() of stream.h, which knows the alignment).
template <typename A, typename T, typename Body>
LONGHAUL_INLINE void each_vector_to(T* to, std::int64_t count, bool streamed, Body body) {
  constexpr int step = lanes_in<A>;
  std::int64_t i = 0;
  if (streamed)
    for (; i + 2 * step <= count; i += 2 * step) {
      const Lanes<A> first = body(i, Full{}), second = body(i + step, Full{});
      stream_two<A>(to + i, first, second);
    }
  each_vector<A>(count - i, [&](std::int64_t j, auto part) { store_as<A>(to + i + j, body(i + j, part), part); });
}
template <typename A>
struct Two {
  Lanes<A> first, second;
};
/// Two outputs: body() returns Two<A>.
template <typename A, typename T, typename Body>
LONGHAUL_INLINE void each_vector_to(T* to_first, T* to_second, std::int64_t count, bool streamed, Body body) {
  constexpr int step = lanes_in<A>;
  std::int64_t i = 0;
  if (streamed)
    for (; i + 2 * step <= count; i += 2 * step) {
      const Two<A> low = body(i, Full{}), high = body(i + step, Full{});
      stream_two<A>(to_first + i, low.first, high.first);
      stream_two<A>(to_second + i, low.second, high.second);
    }
  each_vector<A>(count - i, [&](std::int64_t j, auto part) {
    const Two<A> value = body(i + j, part);
    store_as<A>(to_first + i + j, value.first, part);
    store_as<A>(to_second + i + j, value.second, part);
  });
}
/// As each_vector, with body(offset, part, slot), where slot runs through 0..3: four sums instead of one chain of
/// additions.
template <typename A, typename Body>
LONGHAUL_INLINE void each_vector_of_4(std::int64_t count, Body body) {
  constexpr int step = lanes_in<A>;
  std::int64_t i = 0;
  for (; i + 4 * step <= count; i += 4 * step) {
    body(i, Full{}, 0);
    body(i + step, Full{}, 1);
    body(i + 2 * step, Full{}, 2);
    body(i + 3 * step, Full{}, 3);
  }
  for (; i + step <= count; i += step) body(i, Full{}, 0);
  if (i < count) body(i, Tail{count - i}, 1);
}

template <typename A>
LONGHAUL_INLINE A sum_lanes(Lanes<A> v) {
  if constexpr (vector_bytes == 64) {
    typedef A Half __attribute__((vector_size(32)));
    typedef A Quarter __attribute__((vector_size(16)));
    Half low, high;
    __builtin_memcpy(&low, &v, 32);
    __builtin_memcpy(&high, reinterpret_cast<const char*>(&v) + 32, 32);
    low += high;
    Quarter first, second;
    __builtin_memcpy(&first, &low, 16);
    __builtin_memcpy(&second, reinterpret_cast<const char*>(&low) + 16, 16);
    first += second;
    if constexpr (sizeof(A) == 4)
      return (first[0] + first[2]) + (first[1] + first[3]);
    else
      return first[0] + first[1];
  } else {
    A sum = v[0];
    for (int i = 1; i < lanes_in<A>; ++i) sum += v[i];
    return sum;
  }
}
template <typename A>
LONGHAUL_INLINE A sum_lanes_of_4(const Lanes<A> (&v)[4]) {
  return sum_lanes<A>((v[0] + v[1]) + (v[2] + v[3]));
}
/// The larger of two; the second when either is NaN.
template <typename V>
LONGHAUL_INLINE V larger(V a, V b) {
  return a > b ? a : b;
}
template <typename A>
LONGHAUL_INLINE A max_lanes(Lanes<A> v) {
  A result = v[0];
  for (int i = 1; i < lanes_in<A>; ++i) result = v[i] > result ? v[i] : result;
  return result;
}

}  // namespace
}  // namespace longhaul::cpu
