// A set of half-open ranges of int64, kept merged: which part of a tensor has been seen.
#pragma once
#include <algorithm>
#include <cstdint>
#include <iterator>
#include <map>

namespace longhaul {

class RangeSet {
 public:
  /// Adds [begin, end); touching and overlapping ranges merge. An empty range changes nothing.
  void add(std::int64_t begin, std::int64_t end) {
    if (begin >= end) return;
    auto next = ranges_.upper_bound(begin);
    if (next != ranges_.begin() && std::prev(next)->second >= begin) {
      --next;
      begin = next->first;
    }
    while (next != ranges_.end() && next->first <= end) {
      end = std::max(end, next->second);
      next = ranges_.erase(next);
    }
    ranges_.emplace(begin, end);
  }
  /// True when some element of [begin, end) is in the set.
  bool overlaps(std::int64_t begin, std::int64_t end) const {
    if (begin >= end) return false;
    const auto next = ranges_.lower_bound(end);
    return next != ranges_.begin() && std::prev(next)->second > begin;
  }
  /// True when all of [begin, end) is in the set.
  bool covers(std::int64_t begin, std::int64_t end) const {
    if (begin >= end) return true;
    const auto next = ranges_.upper_bound(begin);
    return next != ranges_.begin() && std::prev(next)->second >= end;
  }
  /// The first element >= begin that is not in the set.
  std::int64_t first_missing(std::int64_t begin) const {
    const auto next = ranges_.upper_bound(begin);
    if (next == ranges_.begin() || std::prev(next)->second <= begin) return begin;
    return std::prev(next)->second;
  }

 private:
  std::map<std::int64_t, std::int64_t> ranges_;  // begin -> end
};

}  // namespace longhaul
