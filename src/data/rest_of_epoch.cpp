#include "data/rest_of_epoch.h"

#include <algorithm>

#include "base/error.h"

namespace longhaul {

// The runs less those samples: the first `taken.position` of a shuffle of what can be cut from them.
std::vector<RestOfEpoch::Run> RestOfEpoch::without(const std::vector<Run>& runs, std::int64_t epoch,
                                                   const EarlierSamples& taken) {
  std::int64_t total = 0;
  for (const Run& run : runs) total += run.end - run.begin;
  const std::int64_t samples = total > 0 ? (total - 1) / taken.sequence_length : 0;
  LONGHAUL_CHECK(taken.position <= samples, "{} samples of {} were taken", taken.position, samples);
  std::vector<std::int64_t> seen;
  if (samples > 0) {
    const Permutation shuffle(samples, shuffle_key(taken.seed, epoch));
    for (std::int64_t place = 0; place < taken.position; ++place) seen.push_back(shuffle(place));
  }
  std::sort(seen.begin(), seen.end());
  seen.push_back(-1);  // none
  std::vector<Run> left;
  std::int64_t at = 0;
  const auto keep = [&](std::int64_t begin, std::int64_t end) {
    if (begin == end) return;
    if (!left.empty() && left.back().end == begin)
      left.back().end = end;
    else
      left.push_back({at, begin, end});
    at += end - begin;
  };
  auto next = seen.begin();
  std::int64_t place = 0;  // in the runs together
  for (const Run& run : runs) {
    std::int64_t token = run.begin;
    while (token < run.end) {
      const std::int64_t sample_begin = *next * taken.sequence_length,
                         sample_end = sample_begin + taken.sequence_length;
      std::int64_t count = run.end - token;
      if (*next >= 0 && place < sample_end) {
        const bool inside = place >= sample_begin;
        count = std::min(count, (inside ? sample_end : sample_begin) - place);
        if (!inside) keep(token, token + count);
        if (inside && place + count == sample_end) ++next;
      } else {
        keep(token, token + count);
      }
      token += count;
      place += count;
    }
  }
  return left;
}

RestOfEpoch::RestOfEpoch(const TokenSource& source, std::int64_t sequence_length, std::int64_t epoch,
                         const std::vector<EarlierSamples>& earlier)
    : source_(source), sequence_length_(sequence_length), runs_({{0, 0, source.size()}}) {
  for (const EarlierSamples& taken : earlier) runs_ = without(runs_, epoch, taken);
  for (const Run& run : runs_) rest_ += run.end - run.begin;
  begin_ = (source.size() + sequence_length - 1) / sequence_length * sequence_length;
}

template <typename Visit>
void RestOfEpoch::each_piece(std::int64_t begin, std::int64_t count, Visit&& visit) const {
  LONGHAUL_CHECK(begin >= 0 && count >= 0 && begin + count <= size(), "tokens [{}, {}) of {}", begin, begin + count,
                 size());
  if (begin < begin_) return visit(begin, count);
  begin -= begin_;
  auto run = std::prev(std::upper_bound(runs_.begin(), runs_.end(), begin,
                                        [](std::int64_t token, const Run& one) { return token < one.at; }));
  for (; count > 0; ++run) {
    const std::int64_t first = run->begin + (begin - run->at), here = std::min(count, run->end - first);
    visit(first, here);
    begin += here;
    count -= here;
  }
}

void RestOfEpoch::read(std::int64_t begin, std::int64_t count, std::int32_t* tokens) const {
  each_piece(begin, count, [&](std::int64_t first, std::int64_t here) {
    source_.read(first, here, tokens);
    tokens += here;
  });
}

void RestOfEpoch::read_loss_mask(std::int64_t begin, std::int64_t count, std::uint8_t* mask) const {
  std::uint8_t* at = mask;
  each_piece(begin, count, [&](std::int64_t first, std::int64_t here) {
    source_.read_loss_mask(first, here, at);
    at += here;
  });
  if (begin < begin_) return;
  for (auto run = std::lower_bound(runs_.begin(), runs_.end(), begin - begin_,
                                   [](const Run&one, std::int64_t token) { return one.at < token; });
       run != runs_.end() && run->at < begin - begin_ + count; ++run)
    mask[run->at - (begin - begin_)] = 0;
}

void RestOfEpoch::document_ends(std::int64_t begin, std::int64_t end, std::vector<std::int64_t>& ends) const {
  if (begin < begin_) return source_.document_ends(begin, std::min(end, source_.size()), ends);
  std::int64_t at = begin;
  const auto add = [&](std::int64_t position) {
    if (position > begin && position <= end && (ends.empty() || ends.back() < position)) ends.push_back(position);
  };
  std::vector<std::int64_t> own;
  each_piece(begin, end - begin, [&](std::int64_t first, std::int64_t here) {
    add(at);  // a joint, or the begin
    own.clear();
    source_.document_ends(first, first + here, own);
    for (const std::int64_t position : own) add(at + position - first);
    at += here;
  });
  const auto after = std::lower_bound(runs_.begin(), runs_.end(), at - begin_,
                                      [](const Run& one, std::int64_t token) { return one.at < token; });
  if (after != runs_.end() && after->at == at - begin_) add(at);
}

}  // namespace longhaul
