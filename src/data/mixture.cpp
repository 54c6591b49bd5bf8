#include "data/mixture.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "base/error.h"

namespace longhaul {

// Shares are fractions of integers, so that nothing is rounded however long the run is.
MixtureOrder::MixtureOrder(std::span<const double> weights) {
  LONGHAUL_CHECK(!weights.empty() && weights.size() <= (1u << 20), "a mixture of {} sources", weights.size());
  double sum = 0;
  for (const double weight : weights) sum += weight;
  for (const double weight : weights) {
    LONGHAUL_CHECK(weight > 0, "a source of weight {}", weight);
    weights_.push_back(std::max<std::int64_t>(1, std::llround(weight / sum * 0x1p60)));
    sum_ += weights_.back();
  }
}

std::size_t MixtureOrder::next(std::span<SourceCursor> cursors) const {
  LONGHAUL_CHECK(cursors.size() == weights_.size(), "{} cursors of {} sources", cursors.size(), weights_.size());
  std::uint64_t place = 1;  // of the sample that is asked for
  for (const SourceCursor& cursor : cursors) place += static_cast<std::uint64_t>(cursor.taken);
  // What a source is behind its share once this sample is given to another, in samples times sum_: less than two, so
  // that the products may wrap.
  const auto behind = [&](std::size_t i) {
    return static_cast<std::int64_t>(place * static_cast<std::uint64_t>(weights_[i]) -
                                     static_cast<std::uint64_t>(cursors[i].taken) * static_cast<std::uint64_t>(sum_));
  };
  const std::size_t count = weights_.size();
  const double slack = count > 1 ? static_cast<double>(sum_) / static_cast<double>(2 * count - 2) : 0;
  std::size_t chosen = count, most = 0;
  double first = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const auto own = static_cast<double>(behind(i));
    if (behind(i) > behind(most)) most = i;
    if (own < slack) continue;  // not due
    // After so many more samples it would be too far behind.
    const double deadline = (static_cast<double>(sum_) - slack - own) / static_cast<double>(weights_[i]);
    if (chosen < count && deadline >= first) continue;
    chosen = i;
    first = deadline;
  }
  if (chosen == count) chosen = most;  // by rounding of `slack` alone
  ++cursors[chosen].taken;
  return chosen;
}

double MixtureOrder::share(std::size_t source) const {
  return static_cast<double>(weights_[source]) / static_cast<double>(sum_);
}

MixedTokens::MixedTokens(std::vector<const TokenSource*> sources, std::int64_t sequence_length)
    : length_(sequence_length) {
  LONGHAUL_CHECK(!sources.empty() && sequence_length > 0, "a mixture of {} sources", sources.size());
  for (const TokenSource* source : sources) {
    const std::int64_t samples = std::max<std::int64_t>(0, source->size() - 1) / length_;
    parts_.push_back({source, size_, size_ + (samples + 1) * length_});
    size_ = parts_.back().end;
  }
}

std::size_t MixedTokens::part_of(std::int64_t token) const {
  LONGHAUL_CHECK(token >= 0 && token < size_, "token {} of {}", token, size_);
  const auto after = std::upper_bound(parts_.begin(), parts_.end(), token,
                                      [](std::int64_t value, const Part& part) { return value < part.begin; });
  return static_cast<std::size_t>(after - parts_.begin()) - 1;
}

template <typename Visit>
void MixedTokens::each_piece(std::int64_t begin, std::int64_t count, Visit&& visit) const {
  LONGHAUL_CHECK(begin >= 0 && count >= 0 && count <= size_ - begin, "tokens [{}, {}) of {}", begin, begin + count,
                 size_);
  for (std::int64_t done = 0; done < count;) {
    const Part& part = parts_[part_of(begin + done)];
    const std::int64_t here = std::min(count - done, part.end - begin - done), from = begin + done - part.begin;
    const std::int64_t real = std::clamp<std::int64_t>(part.source->size() - from, 0, here);
    if (real > 0) visit(*part.source, from, real, done);
    done += here;
  }
}

void MixedTokens::read(std::int64_t begin, std::int64_t count, std::int32_t* tokens) const {
  std::fill_n(tokens, count, 0);
  each_piece(begin, count, [&](const TokenSource& source, std::int64_t from, std::int64_t real, std::int64_t done) {
    source.read(from, real, tokens + done);
  });
}

bool MixedTokens::has_loss_mask() const {
  return std::any_of(parts_.begin(), parts_.end(), [](const Part& part) { return part.source->has_loss_mask(); });
}

void MixedTokens::read_loss_mask(std::int64_t begin, std::int64_t count, std::uint8_t* mask) const {
  std::memset(mask, 0, static_cast<std::size_t>(count));
  each_piece(begin, count, [&](const TokenSource& source, std::int64_t from, std::int64_t real, std::int64_t done) {
    source.read_loss_mask(from, real, mask + done);
  });
}

bool MixedTokens::has_documents() const {
  return std::all_of(parts_.begin(), parts_.end(), [](const Part& part) { return part.source->has_documents(); });
}

void MixedTokens::document_ends(std::int64_t begin, std::int64_t end, std::vector<std::int64_t>& ends) const {
  for (const Part& part : parts_) {
    const std::int64_t from = std::max(begin, part.begin) - part.begin,
                       to = std::min({end, part.end, part.begin + part.source->size()}) - part.begin;
    if (from >= to) continue;
    const std::size_t before = ends.size();
    part.source->document_ends(from, to, ends);
    for (std::size_t i = before; i < ends.size(); ++i) ends[i] += part.begin;
  }
}

}  // namespace longhaul
