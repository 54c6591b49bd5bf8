#include "data/packed_tokens.h"

#include <algorithm>
#include <cstring>
#include <set>
#include <tuple>

#include "base/error.h"
#include "config/data_format.h"

namespace longhaul {

PackedTokens::PackedTokens(const TokenSource& source, std::int64_t sequence_length, LongDocuments longer,
                           std::int64_t window)
    : source_(source), length_(sequence_length) {
  LONGHAUL_CHECK(sequence_length > 0 && window > 0, "samples of {}, windows of {}", sequence_length, window);
  if (!source.has_documents())
    fail(
        "data.packing is best_fit, which needs to know where documents end, and these files do not say; use a "
        "data.format that says it, {}, or data.packing: none",
        name_document_formats());
  std::vector<Piece> pieces;
  std::vector<std::int64_t> ends;
  std::int64_t begin = 0;
  const auto document = [&](std::int64_t end) {
    const std::int64_t length = end - begin;
    ++counts_.documents;
    counts_.longest = std::max(counts_.longest, length);
    std::int64_t kept = length;
    if (length > length_) {
      ++counts_.longer;
      if (longer != LongDocuments::split) kept = longer == LongDocuments::truncate ? length_ : 0;
      counts_.lost_tokens += length - kept;
    }
    for (std::int64_t at = 0; at < kept; at += length_) pieces.push_back({begin + at, 0, std::min(length_, kept - at)});
    begin = end;
    if (static_cast<std::int64_t>(pieces.size()) >= window) pack(pieces);
  };
  constexpr std::int64_t stretch = std::int64_t{1} << 24;  // of tokens whose documents are asked for at once
  for (std::int64_t at = 0; at < source.size(); at += stretch) {
    ends.clear();
    source.document_ends(at, std::min(at + stretch, source.size()), ends);
    for (const std::int64_t end : ends) document(end);
  }
  if (begin < source.size()) document(source.size());  // what follows the last end
  pack(pieces);
  if (pieces_.empty())
    fail("data.packing: all {} documents are longer than training.seq_len {} and skipped; use long: split or truncate",
         counts_.documents, length_);
  std::int64_t held = 0;
  for (const Piece& piece : pieces_) held += piece.length;
  counts_.padding = counts_.samples * length_ - held;
}

void PackedTokens::pack(std::vector<Piece>& window) {
  std::vector<std::size_t> order(window.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return window[a].length > window[b].length; });
  std::set<std::pair<std::int64_t, std::int64_t>> open;  // room, sample
  for (const std::size_t i : order) {
    Piece piece = window[i];
    const auto best = open.lower_bound({piece.length, 0});
    std::int64_t room = length_, sample = counts_.samples;
    if (best == open.end()) {
      ++counts_.samples;
    } else {
      std::tie(room, sample) = *best;
      open.erase(best);
    }
    piece.place = sample * length_ + length_ - room;
    if (room > piece.length) open.emplace(room - piece.length, sample);
    pieces_.push_back(piece);
  }
  // A window's samples are its own, so that pieces stay sorted as a whole.
  std::sort(pieces_.end() - static_cast<std::ptrdiff_t>(window.size()), pieces_.end(),
            [](const Piece& a, const Piece& b) { return a.place < b.place; });
  window.clear();
}

template <typename Function>
void PackedTokens::each_run(std::int64_t begin, std::int64_t count, Function&& run) const {
  LONGHAUL_CHECK(begin >= 0 && count >= 0 && begin <= size() && count <= size() - begin, "tokens [{}, {}) of {}", begin,
                 begin + count, size());
  auto next = std::upper_bound(pieces_.begin(), pieces_.end(), begin,
                               [](std::int64_t value, const Piece& piece) { return value < piece.place; });
  for (std::int64_t done = 0; done < count;) {
    const std::int64_t at = begin + done;
    const Piece* piece = next == pieces_.begin() ? nullptr : &*std::prev(next);
    if (piece && at >= piece->place + piece->length) piece = nullptr;
    const std::int64_t until = piece ? piece->place + piece->length : next == pieces_.end() ? size() : next->place;
    const std::int64_t here = std::min(count - done, until - at);
    run(piece, piece ? at - piece->place : 0, here, done);
    done += here;
    while (next != pieces_.end() && next->place <= begin + done) ++next;
  }
}

void PackedTokens::read(std::int64_t begin, std::int64_t count, std::int32_t* tokens) const {
  each_run(begin, count, [&](const Piece* piece, std::int64_t offset, std::int64_t here, std::int64_t done) {
    if (piece)
      source_.read(piece->source + offset, here, tokens + done);
    else
      std::fill_n(tokens + done, here, 0);
  });
}

void PackedTokens::read_loss_mask(std::int64_t begin, std::int64_t count, std::uint8_t* mask) const {
  each_run(begin, count, [&](const Piece* piece, std::int64_t offset, std::int64_t here, std::int64_t done) {
    if (piece)
      source_.read_loss_mask(piece->source + offset, here, mask + done);
    else
      std::memset(mask + done, 0, static_cast<std::size_t>(here));
  });
}

void PackedTokens::document_ends(std::int64_t begin, std::int64_t end, std::vector<std::int64_t>& ends) const {
  const auto add = [&](std::int64_t place) {
    if (place > begin && place <= end && (ends.empty() || ends.back() < place)) ends.push_back(place);
  };
  auto piece = std::upper_bound(pieces_.begin(), pieces_.end(), begin,
                                [](std::int64_t value, const Piece& one) { return value < one.place; });
  if (piece != pieces_.begin()) --piece;
  for (; piece != pieces_.end() && piece->place < end; ++piece) {
    const std::int64_t behind = piece->place + piece->length;
    add(behind);
    // Padding, if any, ends where the next sample begins.
    add(std::next(piece) != pieces_.end() ? std::next(piece)->place : counts_.samples * length_);
  }
}

}  // namespace longhaul
