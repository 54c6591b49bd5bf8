#include "data/loader.h"

#include <algorithm>
#include <array>
#include <limits>
#include <numeric>

#include "base/error.h"
#include "config/data_format.h"

namespace longhaul {

std::vector<std::int32_t> contiguous_order(std::int32_t begin, std::int32_t end) {
  LONGHAUL_CHECK(0 <= begin && begin <= end, "slice [{}, {})", begin, end);
  std::vector<std::int32_t> order(static_cast<std::size_t>(end - begin));
  std::iota(order.begin(), order.end(), begin);
  return order;
}

SequenceLoader::SequenceLoader(const TokenSource& source, std::int64_t sequence_length, Packing packing)
    : source_(source), sequence_length_(static_cast<std::int32_t>(sequence_length)), packing_(packing) {
  if (sequence_length < 1 || sequence_length >= std::numeric_limits<std::int32_t>::max())
    fail("training.seq_len {} is not between 1 and 2147483646", sequence_length);
  if (packing == Packing::documents && !source.has_documents())
    fail(
        "data.packing is {{mode: documents}}, which needs to know where documents end, and these files do not say; use "
        "a data.format that says it, {}, or data.packing: none",
        name_document_formats());
}

std::int64_t SequenceLoader::fill(std::span<const std::int64_t> samples, std::span<const std::int32_t> order,
                                  HostBatch& batch) {
  return fill(
      samples, [&](std::span<const std::int32_t>, std::int32_t) { return order; }, batch);
}

std::span<const std::int32_t> SequenceLoader::document_starts(std::int64_t sample) {
  const std::int64_t first_token = sample * sequence_length_;
  LONGHAUL_CHECK(sample >= 0 && first_token + sequence_length_ < source_.size(), "sample {} of {} tokens", sample,
                 source_.size());
  starts_.assign(1, 0);
  if (packing_ == Packing::documents) {
    ends_.clear();
    source_.document_ends(first_token, first_token + sequence_length_, ends_);
    for (const std::int64_t end : ends_)
      if (end < first_token + sequence_length_) starts_.push_back(static_cast<std::int32_t>(end - first_token));
  }
  return starts_;
}

std::int64_t SequenceLoader::labels(std::int64_t sample) {
  document_starts(sample);  // finds ends_
  const std::int64_t first_label = sample * sequence_length_ + 1;
  if (!source_.has_loss_mask()) return sequence_length_ - static_cast<std::int64_t>(ends_.size());
  std::int64_t count = 0;
  std::array<std::uint8_t, 4096> mask;
  auto next_end = ends_.begin();
  for (std::int64_t done = 0; done < sequence_length_; done += static_cast<std::int64_t>(mask.size())) {
    const std::int64_t piece = std::min<std::int64_t>(sequence_length_ - done, mask.size());
    source_.read_loss_mask(first_label + done, piece, mask.data());
    count += std::count_if(mask.begin(), mask.begin() + piece, [](std::uint8_t one) { return one != 0; });
    for (; next_end != ends_.end() && *next_end < first_label + done + piece; ++next_end)
      count -= mask[static_cast<std::size_t>(*next_end - first_label - done)] != 0;
  }
  return count;
}

SequenceLoader::Cut SequenceLoader::cut(std::int64_t sample) {
  if (packing_ == Packing::none || sample == 0) return {};
  const std::int64_t first_token = sample * sequence_length_;
  ends_.clear();
  source_.document_ends(first_token - 1, first_token + sequence_length_, ends_);
  if (!ends_.empty() && ends_.front() == first_token) return {};
  return {true, !ends_.empty()};
}

std::int64_t SequenceLoader::fill(std::span<const std::int64_t> samples, const RowOrder& order_of, HostBatch& batch) {
  std::int64_t at = 0;
  for (const std::int64_t sample : samples) {
    const std::int64_t first_token = sample * sequence_length_;
    const auto order = order_of(document_starts(sample), sequence_length_);
    const auto slots = static_cast<std::int64_t>(order.size());
    if (at == 0) batch.resize(samples.size() * order.size());
    LONGHAUL_CHECK(at + slots <= static_cast<std::int64_t>(batch.tokens.size()), "rows of different lengths");
    for (std::int64_t slot = 0; slot < slots;) {
      const std::int32_t index = order[static_cast<std::size_t>(slot)];
      LONGHAUL_CHECK(index >= 0, "index {} in slot {}", index, slot);
      if (index >= sequence_length_) {
        const auto place = static_cast<std::size_t>(at + slot);
        batch.tokens[place] = 0;
        batch.labels[place] = ignored_label;
        batch.index[place] = batch.key_start[place] = index;
        batch.position[place] = 0;
        ++slot;
        continue;
      }
      std::int64_t run = 1;
      while (slot + run < slots && index + run < sequence_length_ &&
             order[static_cast<std::size_t>(slot + run)] == index + run)
        ++run;
      fill_run(first_token, index, run, at + slot, batch);
      slot += run;
    }
    at += slots;
  }
  return at - std::count(batch.labels.begin(), batch.labels.begin() + at, ignored_label);
}

void SequenceLoader::fill_run(std::int64_t first_token, std::int32_t index, std::int64_t count, std::int64_t at,
                              HostBatch& batch) const {
  const std::int64_t begin = first_token + index;
  std::int32_t* const labels = batch.labels.data() + at;
  source_.read(begin, count, batch.tokens.data() + at);
  // The last label of a slice is the first token of the next rank's: labels are shifted before the sequence is split.
  source_.read(begin + 1, count, labels);
  if (source_.has_loss_mask()) {
    std::array<std::uint8_t, 4096> mask;
    for (std::int64_t done = 0; done < count; done += static_cast<std::int64_t>(mask.size())) {
      const std::int64_t piece = std::min(count - done, static_cast<std::int64_t>(mask.size()));
      source_.read_loss_mask(begin + 1 + done, piece, mask.data());
      for (std::int64_t i = 0; i < piece; ++i)
        if (mask[static_cast<std::size_t>(i)] == 0) labels[done + i] = ignored_label;
    }
  }
  // Without packing there are no ends: one document, from index 0.
  auto next_end = std::upper_bound(ends_.begin(), ends_.end(), begin);
  std::int32_t start = next_end == ends_.begin() ? 0 : static_cast<std::int32_t>(*std::prev(next_end) - first_token);
  for (std::int64_t i = 0; i < count; ++i) {
    if (next_end != ends_.end() && begin + i == *next_end) {
      start = static_cast<std::int32_t>(*next_end - first_token);
      ++next_end;
    }
    const auto own = static_cast<std::int32_t>(index + i);
    const auto place = static_cast<std::size_t>(at + i);
    batch.index[place] = own;
    batch.key_start[place] = start;
    batch.position[place] = own - start;
    if (next_end != ends_.end() && begin + i + 1 == *next_end) labels[i] = ignored_label;
  }
}

}  // namespace longhaul
