#include "kernels/cpu/stream.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <fstream>
#include <string>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "base/environment.h"
#include "base/error.h"

namespace longhaul::cpu {

std::int64_t last_level_cache_bytes() {
  static const std::int64_t bytes = [] {
    std::int64_t largest = 0;
    for (int index = 0; index < 8; ++index) {
      std::ifstream in("/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(index) + "/size");
      std::int64_t size = 0;
      char unit = 0;
      if (in >> size) in >> unit;
      if (unit == 'K') size <<= 10;
      if (unit == 'M') size <<= 20;
      largest = std::max(largest, size);
    }
    return largest > 0 ? largest : std::int64_t{32} << 20;
  }();
  return bytes;
}

bool past_caches(std::int64_t bytes) {
  static const std::int64_t threshold = [] {
    const std::string asked = environment("LONGHAUL_STREAM_BYTES");
    if (asked.empty()) return last_level_cache_bytes() / 2;  // what is produced shares it with what was read
    std::int64_t value = 0;
    const auto [stop, error] = std::from_chars(asked.data(), asked.data() + asked.size(), value);
    if (error != std::errc() || stop != asked.data() + asked.size() || value < 0)
      fail("LONGHAUL_STREAM_BYTES is '{}'; it must be a number of bytes, 0 or more, or unset", asked);
    return value;
  }();
  return bytes >= threshold;
}

bool past_caches(const void* output, std::int64_t bytes, std::int64_t row_bytes, const void* input,
                 const void* other_input, const void* third_input) {
  return past_caches(bytes) && reinterpret_cast<std::uintptr_t>(output) % 64 == 0 && row_bytes % 64 == 0 &&
         output != input && output != other_input && output != third_input;
}

#if defined(__SSE2__)
namespace {

/// Calls word(i) for the aligned words of 16 bytes of `to` and edge(begin, end) for what is left at both ends.
template <typename Word, typename Edge>
void aligned_words(const void* to, std::size_t bytes, Word word, Edge edge) {
  const std::size_t head = std::min(bytes, (64 - reinterpret_cast<std::uintptr_t>(to) % 64) % 64);
  const std::size_t tail = head + (bytes - head) / 64 * 64;
  edge(std::size_t{0}, head);
  for (std::size_t i = head; i < tail; i += 16) word(i);
  edge(tail, bytes);
}

}  // namespace

void copy_bytes(void* to, const void* from, std::size_t bytes, bool past) {
  if (!past) {
    std::memcpy(to, from, bytes);
    return;
  }
  char* const target = static_cast<char*>(to);
  const char* const source = static_cast<const char*>(from);
  aligned_words(
      to, bytes,
      [&](std::size_t i) {
        _mm_stream_si128(reinterpret_cast<__m128i*>(target + i),
                         _mm_loadu_si128(reinterpret_cast<const __m128i*>(source + i)));
      },
      [&](std::size_t begin, std::size_t end) { std::memcpy(target + begin, source + begin, end - begin); });
}

void clear_bytes(void* to, std::size_t bytes, bool past) {
  if (!past) {
    std::memset(to, 0, bytes);
    return;
  }
  char* const target = static_cast<char*>(to);
  aligned_words(
      to, bytes, [&](std::size_t i) { _mm_stream_si128(reinterpret_cast<__m128i*>(target + i), _mm_setzero_si128()); },
      [&](std::size_t begin, std::size_t end) { std::memset(target + begin, 0, end - begin); });
}

void finish_streams() {
  _mm_sfence();
}
#else
void copy_bytes(void* to, const void* from, std::size_t bytes, bool) {
  std::memcpy(to, from, bytes);
}
void clear_bytes(void* to, std::size_t bytes, bool) {
  std::memset(to, 0, bytes);
}
void finish_streams() {}
#endif

}  // namespace longhaul::cpu
