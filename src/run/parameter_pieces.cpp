#include "run/parameter_pieces.h"

#include <algorithm>

#include "base/error.h"
#include "comm/exchange.h"
#include "model/parameters.h"

namespace longhaul {

ParameterPieces::ParameterPieces(Session& session, const TransformerSpec& spec)
    : session_(session), world_(session.world()) {
  for (const Parameter& parameter : parameters(spec)) {
    const StateTensor& tensor = session.state(parameter.name);
    LONGHAUL_CHECK(tensor.shape == parameter.shape && tensor.key.role == Role::parameter,
                   "the session's {} is not the spec's", parameter.name);
    tensors_.push_back(&tensor);
  }
  gather_ranges();
}

std::vector<ParameterPieces::Segment> ParameterPieces::segments_of(const std::vector<std::int64_t>& ranges,
                                                                   std::int64_t count, const std::string& name) {
  std::vector<Segment> segments;
  for (std::int64_t at = 0; at < count;) {
    Segment next;
    for (std::size_t rank = 0; rank * 2 < ranges.size(); ++rank) {
      const std::int64_t begin = ranges[rank * 2], end = ranges[rank * 2 + 1];
      if (begin > at || end <= at) continue;
      next = {at, end, static_cast<int>(rank)};  // the lowest rank that holds it: rank 0 sends itself nothing
      break;
    }
    LONGHAUL_CHECK(next.end > at, "no rank holds element {} of {}", at, name);
    segments.push_back(next);
    at = next.end;
  }
  return segments;
}

void ParameterPieces::gather_ranges() {
  const auto size = static_cast<std::size_t>(world_.size());
  std::vector<std::int64_t> mine;
  for (const StateTensor* tensor : tensors_) {
    mine.push_back(tensor->begin);
    mine.push_back(tensor->end);
  }
  const std::vector<std::int64_t> all = all_gather(world_, mine);
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    std::vector<std::int64_t> ranges;
    for (std::size_t rank = 0; rank < size; ++rank)
      for (std::size_t side : {0u, 1u}) ranges.push_back(all[rank * mine.size() + i * 2 + side]);
    segments_.push_back(segments_of(ranges, element_count(tensors_[i]->shape), tensors_[i]->name));
  }
}

std::string ParameterPieces::for_each(
    std::size_t i, const std::function<void(std::int64_t begin, std::int64_t end, const char* data)>& take) {
  const StateTensor& tensor = *tensors_[i];
  std::string failure = failure_of([&] {
    if (world_.rank() == 0) received_.resize(static_cast<std::size_t>(piece_elements) * size_of(tensor.dtype));
  });
  // Without room to receive, rank 0 cannot take part: that has to be known first.
  agree(world_, failure);
  for (const Segment& segment : segments_[i])
    for (std::int64_t begin = segment.begin; begin < segment.end; begin += piece_elements) {
      const std::int64_t end = std::min(segment.end, begin + piece_elements);
      const char* data = fetch(tensor, segment.rank, begin, end);
      if (world_.rank() == 0 && failure.empty()) failure = failure_of([&] { take(begin, end, data); });
    }
  return failure;
}

// The piece's elements on rank 0; null on others.
const char* ParameterPieces::fetch(const StateTensor& tensor, int owner, std::int64_t begin, std::int64_t end) {
  const std::size_t bytes = static_cast<std::size_t>(end - begin) * size_of(tensor.dtype);
  const int rank = world_.rank();
  const char* here = nullptr;
  if (rank == owner) here = reinterpret_cast<const char*>(session_.elements(tensor, begin, end, own_).data());
  if (owner == 0) return here;
  // Rank 0 and the owner are each other's partner, everybody else their own.
  const int partner = rank == 0 ? owner : rank == owner ? 0 : rank;
  char nothing = 0;
  world_.send_receive(here ? here : &nothing, here ? bytes : 0, partner, rank == 0 ? received_.data() : &nothing,
                      rank == 0 ? bytes : 0, partner);
  return rank == 0 ? received_.data() : nullptr;
}

}  // namespace longhaul
