#include "tokenizer/bpe.h"

#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <functional>

#include "base/error.h"

namespace longhaul {

MergeTable::MergeTable(std::size_t pairs) {
  const std::size_t slots = std::bit_ceil(std::max<std::size_t>(16, pairs * 2));
  slots_.resize(slots);
  mask_ = slots - 1;
  shift_ = 64 - std::countr_zero(slots);
}

void MergeTable::add(std::int32_t left, std::int32_t right, Merge merge) {
  const std::uint64_t key = key_of(left, right);
  std::size_t slot = slot_of(key);
  while (slots_[slot].key != empty && slots_[slot].key != key) slot = (slot + 1) & mask_;
  if (slots_[slot].key == empty) {
    LONGHAUL_CHECK(++size_ * 2 <= slots_.size() + 1, "more merges than the table was made for");
    slots_[slot].key = key;
  }
  slots_[slot].merge = merge;
}

void MergeTable::apply(std::vector<std::int32_t>& symbols) const {
  if (symbols.size() < 2) return;
  if (symbols.size() <= 48)
    apply_short(symbols);
  else
    apply_long(symbols);
}

// Words are short: the lowest rank is found by looking at all of them, and a merge moves what follows.
void MergeTable::apply_short(std::vector<std::int32_t>& symbols) const {
  std::size_t count = symbols.size();
  std::int32_t* ids = symbols.data();
  std::array<Merge, 48> merges;  // of the pair that begins at a symbol
  for (std::size_t i = 0; i + 1 < count; ++i) merges[i] = find(ids[i], ids[i + 1]);
  for (;;) {
    std::uint32_t lowest = none;
    std::size_t at = 0;
    for (std::size_t i = 0; i + 1 < count; ++i)
      if (merges[i].rank < lowest) {
        lowest = merges[i].rank;
        at = i;
      }
    if (lowest == none) break;
    ids[at] = static_cast<std::int32_t>(merges[at].id);
    for (std::size_t i = at + 1; i + 1 < count; ++i) {
      ids[i] = ids[i + 1];
      merges[i] = merges[i + 1];  // the last one is never looked at
    }
    --count;
    if (at + 1 < count) merges[at] = find(ids[at], ids[at + 1]);
    if (at > 0) merges[at - 1] = find(ids[at - 1], ids[at]);
  }
  symbols.resize(count);
}

// Long words: a heap of pairs by rank and place, a list of symbols, entries that no longer hold skipped.
void MergeTable::apply_long(std::vector<std::int32_t>& symbols) const {
  LONGHAUL_CHECK(symbols.size() < none, "a word of {} symbols", symbols.size());
  const auto count = static_cast<std::uint32_t>(symbols.size());
  std::vector<std::uint32_t> next(count), previous(count);
  std::vector<Merge> merges(count, Merge{none, none});  // of the pair that begins at a symbol, now
  std::vector<std::uint64_t> heap;
  heap.reserve(count);
  const auto entry = [&](std::uint32_t at) { return static_cast<std::uint64_t>(merges[at].rank) << 32 | at; };
  for (std::uint32_t i = 0; i < count; ++i) {
    next[i] = i + 1;
    previous[i] = i - 1;
    if (i + 1 < count) merges[i] = find(symbols[i], symbols[i + 1]);
    if (merges[i].rank != none) heap.push_back(entry(i));
  }
  const std::greater<> lowest_first;
  std::make_heap(heap.begin(), heap.end(), lowest_first);
  const auto renew = [&](std::uint32_t at) {
    merges[at] = next[at] < count ? find(symbols[at], symbols[next[at]]) : Merge{none, none};
    if (merges[at].rank == none) return;
    heap.push_back(entry(at));
    std::push_heap(heap.begin(), heap.end(), lowest_first);
  };
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), lowest_first);
    const std::uint64_t top = heap.back();
    heap.pop_back();
    const auto at = static_cast<std::uint32_t>(top);
    if (merges[at].rank != static_cast<std::uint32_t>(top >> 32)) continue;  // another pair stands there now
    symbols[at] = static_cast<std::int32_t>(merges[at].id);
    const std::uint32_t gone = next[at];
    next[at] = next[gone];
    merges[gone] = {none, none};
    symbols[gone] = -1;
    if (next[at] < count) previous[next[at]] = at;
    if (at > 0) renew(previous[at]);
    renew(at);
  }
  symbols.erase(std::remove(symbols.begin(), symbols.end(), -1), symbols.end());
}

static_assert(sizeof(WordCache::Slot) == 64, "a slot is one cache line");

WordCache::WordCache() : slots_(1u << 15) {}

WordCache::Slot& WordCache::slot_of(std::string_view word, bool& found) {
  Slot& slot = slots_[XXH3_64bits(word.data(), word.size()) & (slots_.size() - 1)];
  found = slot.length == word.size() && std::memcmp(slot.word, word.data(), word.size()) == 0;
  return slot;
}

void WordCache::fill(Slot& slot, std::string_view word, const std::int32_t* ids, std::size_t count) {
  LONGHAUL_CHECK(word.size() <= longest_word && count <= most_ids, "a word too long to remember");
  slot.length = static_cast<std::uint8_t>(word.size());
  slot.count = static_cast<std::uint8_t>(count);
  std::memcpy(slot.word, word.data(), word.size());
  std::memcpy(slot.ids, ids, count * sizeof(std::int32_t));
}

}  // namespace longhaul
