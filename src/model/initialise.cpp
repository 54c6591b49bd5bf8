#include "model/initialise.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <thread>
#include <vector>

#include "base/error.h"

namespace longhaul {
namespace {

/// Elements 2 pair and 2 pair + 1, by Box-Muller from one block of the generator.
std::array<double, 2> normal_pair(std::uint64_t seed, std::uint64_t name_hash, std::uint64_t pair) {
  const auto low = [](std::uint64_t value) { return static_cast<std::uint32_t>(value); };
  const auto high = [](std::uint64_t value) { return static_cast<std::uint32_t>(value >> 32); };
  const auto words = philox({low(pair), high(pair), low(name_hash), high(name_hash)}, {low(seed), high(seed)});
  // 53 bits each; the first in (0, 1], so that its logarithm is finite.
  const auto bits = [&](std::size_t i) { return (std::uint64_t{words[i + 1]} << 32 | words[i]) >> 11; };
  const double radius = std::sqrt(-2 * std::log((static_cast<double>(bits(0)) + 1) * 0x1p-53));
  const double angle = 2 * std::numbers::pi * (static_cast<double>(bits(2)) * 0x1p-53);
  return {radius * std::cos(angle), radius * std::sin(angle)};
}

template <typename T>
void fill(const Parameter& parameter, std::uint64_t seed, std::int64_t begin, std::int64_t end, T* target) {
  if (parameter.initialisation != Initialisation::normal) {
    const T value = parameter.initialisation == Initialisation::ones ? T(1) : T(0);
    for (std::int64_t i = begin; i < end; ++i) target[i - begin] = value;
    return;
  }
  const std::uint64_t hash = name_hash(parameter.name);
  for (std::int64_t pair = begin / 2; 2 * pair < end; ++pair) {
    const auto values = normal_pair(seed, hash, static_cast<std::uint64_t>(pair));
    for (std::int64_t half = 0; half < 2; ++half)
      if (const std::int64_t i = 2 * pair + half; i >= begin && i < end)
        target[i - begin] = static_cast<T>(parameter.standard_deviation * values[static_cast<std::size_t>(half)]);
  }
}

// A parameter of a billion elements is half a minute of one thread.
template <typename T>
void fill_by(int threads, const Parameter& parameter, std::uint64_t seed, std::int64_t begin, std::int64_t end,
             T* target) {
  LONGHAUL_CHECK(0 <= begin && begin <= end && end <= parameter.elements(), "range [{}, {}) of {}", begin, end,
                 parameter.name);
  constexpr std::int64_t least = 1 << 14;  // elements that are worth a thread
  const std::int64_t parts = std::clamp<std::int64_t>((end - begin) / least, 1, std::max(1, threads));
  const auto edge = [&](std::int64_t part) { return begin + (end - begin) * part / parts; };
  std::vector<std::jthread> others;
  for (std::int64_t part = 1; part < parts; ++part)
    others.emplace_back(
        [&, part] { fill(parameter, seed, edge(part), edge(part + 1), target + (edge(part) - begin)); });
  fill(parameter, seed, begin, edge(1), target);
}

}  // namespace

std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter, std::array<std::uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t first = std::uint64_t{0xD2511F53u} * counter[0];
    const std::uint64_t second = std::uint64_t{0xCD9E8D57u} * counter[2];
    counter = {static_cast<std::uint32_t>(second >> 32) ^ counter[1] ^ key[0], static_cast<std::uint32_t>(second),
               static_cast<std::uint32_t>(first >> 32) ^ counter[3] ^ key[1], static_cast<std::uint32_t>(first)};
    key[0] += 0x9E3779B9u;
    key[1] += 0xBB67AE85u;
  }
  return counter;
}

std::uint64_t name_hash(std::string_view name) {
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash;
}

double standard_normal(std::uint64_t seed, std::uint64_t hash, std::int64_t index) {
  return normal_pair(seed, hash, static_cast<std::uint64_t>(index / 2))[static_cast<std::size_t>(index % 2)];
}

void initialise(const Parameter& parameter, std::uint64_t seed, std::int64_t begin, std::int64_t end, double* target,
                int threads) {
  fill_by(threads, parameter, seed, begin, end, target);
}
void initialise(const Parameter& parameter, std::uint64_t seed, std::int64_t begin, std::int64_t end, float* target,
                int threads) {
  fill_by(threads, parameter, seed, begin, end, target);
}

}  // namespace longhaul
