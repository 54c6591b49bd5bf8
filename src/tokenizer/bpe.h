// Byte pair encoding: symbols of a word are merged, the pair of lowest rank first, leftmost among equals.
#pragma once
#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace longhaul {

/// Pairs of symbols and what becomes of them. Lookups are a probe or two in one array.
class MergeTable {
 public:
  struct Merge {
    std::uint32_t rank, id;
  };
  static constexpr std::uint32_t none = 0xffffffff;

  /// Room for `pairs` pairs.
  explicit MergeTable(std::size_t pairs);
  /// A pair that stands already gets the new rank and id.
  void add(std::int32_t left, std::int32_t right, Merge merge);
  /// rank none: the pair does not merge.
  Merge find(std::int32_t left, std::int32_t right) const {
    const std::uint64_t key = key_of(left, right);
    for (std::size_t slot = slot_of(key);; slot = (slot + 1) & mask_) {
      if (slots_[slot].key == key) return slots_[slot].merge;
      if (slots_[slot].key == empty) return {none, none};
    }
  }
  std::size_t size() const { return size_; }

  /// Merges `symbols` as far as it goes.
  void apply(std::vector<std::int32_t>& symbols) const;

 private:
  static constexpr std::uint64_t empty = ~std::uint64_t{0};
  static std::uint64_t key_of(std::int32_t left, std::int32_t right) {
    return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 | static_cast<std::uint32_t>(right);
  }
  std::size_t slot_of(std::uint64_t key) const {
    return static_cast<std::size_t>((key * 0x9e3779b97f4a7c15u) >> shift_);
  }
  void apply_short(std::vector<std::int32_t>& symbols) const;
  void apply_long(std::vector<std::int32_t>& symbols) const;

  struct Slot {
    std::uint64_t key = empty;
    Merge merge{none, none};
  };
  std::vector<Slot> slots_;
  std::size_t mask_ = 0, size_ = 0;
  int shift_ = 0;
};

/// Words seen and their ids: one slot a hash, the newest stays. One thread's own.
class WordCache {
 public:
  static constexpr std::size_t longest_word = 30, most_ids = 8;
  WordCache();
  struct alignas(64) Slot {
    std::uint8_t length = 0, count = 0;
    char word[longest_word];
    std::int32_t ids[most_ids];
  };
  /// The slot of a word of at most longest_word bytes; `found`: it holds that word.
  Slot& slot_of(std::string_view word, bool& found);
  static void fill(Slot& slot, std::string_view word, const std::int32_t* ids, std::size_t count);

 private:
  std::vector<Slot> slots_;
};

}  // namespace longhaul
