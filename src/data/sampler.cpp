#include "data/sampler.h"

#include <bit>

#include "base/error.h"

namespace longhaul {
namespace {

// Spreads every input bit over all output bits (multiply and fold, as in SplitMix64).
std::uint64_t mix(std::uint64_t value) {
  value += 0x9e3779b97f4a7c15u;
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
  return value ^ (value >> 31);
}

constexpr std::uint64_t rounds = 8;

}  // namespace

Permutation::Permutation(std::int64_t size, std::uint64_t key) : size_(static_cast<std::uint64_t>(size)), key_(key) {
  LONGHAUL_CHECK(size > 0, "a permutation of {} elements", size);
  half_bits_ = (std::bit_width(size_ - 1) + 1) / 2;
}

// A Feistel network: a bijection of [0, 4^half_bits) whatever the round function is.
std::uint64_t Permutation::encrypt(std::uint64_t value) const {
  const std::uint64_t mask = (std::uint64_t{1} << half_bits_) - 1;
  std::uint64_t left = value >> half_bits_, right = value & mask;
  for (std::uint64_t round = 0; round < rounds; ++round) {
    const std::uint64_t next = left ^ (mix(mix(key_ + round) ^ right) & mask);
    left = right;
    right = next;
  }
  return left << half_bits_ | right;
}

std::int64_t Permutation::operator()(std::int64_t place) const {
  LONGHAUL_CHECK(place >= 0 && static_cast<std::uint64_t>(place) < size_, "place {} of {}", place, size_);
  // The network permutes up to four times as many numbers; following its cycle until it comes back into range leaves a
  // permutation of the range.
  auto value = static_cast<std::uint64_t>(place);
  do value = encrypt(value);
  while (value >= size_);
  return static_cast<std::int64_t>(value);
}

// Keys of neighbouring seeds and epochs must not be neighbours: the rounds add to the key.
std::uint64_t shuffle_key(std::uint64_t seed, std::int64_t epoch) {
  return mix(mix(seed) + static_cast<std::uint64_t>(epoch));
}

Sampler::Sampler(std::int64_t tokens, std::int64_t sequence_length, std::uint64_t seed, bool shuffle)
    : seed_(seed), shuffle_(shuffle) {
  LONGHAUL_CHECK(sequence_length > 0 && tokens >= 0, "samples of {} from {} tokens", sequence_length, tokens);
  samples_ = tokens > 0 ? (tokens - 1) / sequence_length : 0;
  if (samples_ == 0)
    fail(
        "the data has {} tokens, but one sample of training.seq_len {} needs {}: give more data or a shorter "
        "training.seq_len",
        tokens, sequence_length, sequence_length + 1);
  dropped_ = tokens - 1 - samples_ * sequence_length;
}

void Sampler::set_rest(std::int64_t epoch, std::int64_t first, std::int64_t count) {
  rest_epoch_ = epoch;
  rest_first_ = first;
  rest_samples_ = count;
}

std::int64_t Sampler::sample(std::int64_t epoch, std::int64_t position) const {
  const std::int64_t count = samples(epoch), first = epoch == rest_epoch_ ? rest_first_ : 0;
  LONGHAUL_CHECK(epoch >= 0 && position >= 0 && position < count, "sample {} of {} in epoch {}", position, count,
                 epoch);
  return first + (shuffle_ ? Permutation(count, shuffle_key(seed_, epoch))(position) : position);
}

void Sampler::take(DataCursor& cursor, std::span<std::int64_t> out) const {
  for (auto& slot : out) {
    slot = sample(cursor.epoch, cursor.position);
    if (++cursor.position == samples(cursor.epoch)) cursor = {cursor.epoch + 1, 0};
  }
}

}  // namespace longhaul
