// Which sample comes when: a shuffle of each epoch that needs no memory and does not depend on the number of ranks.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

namespace longhaul {

/// A permutation of 0 .. size-1 chosen by `key`, evaluated at one place at a time in O(1) time and memory.
class Permutation {
 public:
  Permutation(std::int64_t size, std::uint64_t key);
  /// The element at place `place`, 0 <= place < size.
  std::int64_t operator()(std::int64_t place) const;

 private:
  std::uint64_t encrypt(std::uint64_t value) const;
  std::uint64_t size_;
  std::uint64_t key_;
  int half_bits_;
};

/// Samples of an epoch that were taken while they were cut or shuffled in another way.
struct EarlierSamples {
  std::int64_t sequence_length = 0;
  std::uint64_t seed = 0;
  std::int64_t position = 0;  // so many were taken
  bool operator==(const EarlierSamples&) const = default;
};

/// The place in the training data: plain numbers, for a checkpoint. The next sample is the one at `position` of
/// `epoch`; or, in an epoch with `earlier` samples, of what those left of it (rest_of_epoch.h).
struct DataCursor {
  std::int64_t epoch = 0;
  std::int64_t position = 0;  // samples of this epoch already taken, 0 <= position < samples
  std::vector<EarlierSamples> earlier = {};
  bool operator==(const DataCursor&) const = default;
};

/// What decides the order of an epoch.
std::uint64_t shuffle_key(std::uint64_t seed, std::int64_t epoch);

/// Cuts a token stream into samples of S + 1 tokens, neighbours sharing one: sample i is tokens [iS, iS+S]. A shorter
/// tail is dropped.
class Sampler {
 public:
  /// Throws Error when the stream holds no whole sample. `shuffle` false: samples come in stream order every epoch.
  Sampler(std::int64_t tokens, std::int64_t sequence_length, std::uint64_t seed, bool shuffle = true);

  std::int64_t samples() const { return samples_; }
  /// Of one epoch.
  std::int64_t samples(std::int64_t epoch) const { return epoch == rest_epoch_ ? rest_samples_ : samples_; }
  /// `epoch` consists of samples first, first + 1, ..., first + count - 1 instead of 0, 1, ...
  void set_rest(std::int64_t epoch, std::int64_t first, std::int64_t count);
  /// Tokens at the end of the stream that are in no sample.
  std::int64_t dropped_tokens() const { return dropped_; }

  /// The sample at `position` (< samples(epoch)) of `epoch`.
  std::int64_t sample(std::int64_t epoch, std::int64_t position) const;
  /// The next out.size() samples from the cursor on, over as many epochs as it takes; moves the cursor past them. The
  /// order is global: rank r of a data-parallel group takes its part of each global batch.
  void take(DataCursor& cursor, std::span<std::int64_t> out) const;

 private:
  std::int64_t samples_ = 0;
  std::int64_t dropped_ = 0;
  std::int64_t rest_epoch_ = -1, rest_first_ = 0, rest_samples_ = 0;
  std::uint64_t seed_;
  bool shuffle_;
};

}  // namespace longhaul
