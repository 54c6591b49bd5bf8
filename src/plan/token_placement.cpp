#include "plan/token_placement.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "base/error.h"
#include "passes/token_order.h"
#include "plan/mesh.h"

namespace longhaul {
namespace {

constexpr int most_by_steps = 128;  // ranks of a ring whose steps are looked at: half a million pairs of chunks

// Queries [begin, end) of the document that starts at `start`: the keys before `limit` that they see, summed.
double seen_before(std::int64_t begin, std::int64_t end, std::int64_t limit, std::int64_t start, std::int64_t window) {
  limit = std::max(limit, start);
  double sum = 0;
  const auto add = [&](std::int64_t first, std::int64_t last, std::int64_t count) {  // an arithmetic series
    sum += static_cast<double>(first + last) * static_cast<double>(count) / 2;
  };
  const auto rising = [&](std::int64_t from, std::int64_t to) {  // queries that see themselves and up to all before
    if (from < to) add(from - start + 1, to - start, to - from);
  };
  const auto flat = [&](std::int64_t from, std::int64_t to, std::int64_t each) {
    if (from < to) sum += static_cast<double>(each) * static_cast<double>(to - from);
  };
  const std::int64_t own = std::clamp(limit, begin, end);  // queries before it see all that they can
  if (window == 0) {
    rising(begin, own);
    flat(own, end, limit - start);
    return sum;
  }
  const std::int64_t full = start + window - 1;  // the first query whose window is full
  rising(begin, std::min(own, full));
  flat(std::max(begin, full), own, window);
  flat(own, std::min(end, full), limit - start);
  // From there on the window leaves the keys before the limit one by one.
  const std::int64_t from = std::max(own, full), to = std::min(end, limit + window - 1);
  if (from < to) add(limit + window - 1 - from, limit + window - to, to - from);
  return sum;
}

void loads(const std::vector<double>& work, const std::vector<std::int32_t>& owner, std::vector<double>& load) {
  std::fill(load.begin(), load.end(), 0.);
  for (std::size_t chunk = 0; chunk < work.size(); ++chunk) load[static_cast<std::size_t>(owner[chunk])] += work[chunk];
}

// Exchanges one chunk of the busiest rank for one of another as long as that lowers the larger of the two loads.
void improve(const std::vector<double>& work, std::vector<std::int32_t>& owner, std::vector<double>& load) {
  const auto chunks = static_cast<std::int32_t>(work.size()), ranks = static_cast<std::int32_t>(load.size());
  for (std::int32_t round = 0; round < 2 * chunks; ++round) {
    const auto busiest = static_cast<std::int32_t>(std::max_element(load.begin(), load.end()) - load.begin());
    const auto at = [&](std::int32_t rank) -> double& { return load[static_cast<std::size_t>(rank)]; };
    double lowest = at(busiest) * (1 - 1e-12);
    std::int32_t give = -1, take = -1;
    // The least busy rank first; the others only when it has nothing to exchange.
    const auto idlest = static_cast<std::int32_t>(std::min_element(load.begin(), load.end()) - load.begin());
    for (std::int32_t i = 0; i < ranks && give < 0; ++i) {
      const std::int32_t other = (idlest + i) % ranks;
      if (other == busiest) continue;
      for (std::int32_t a = 0; a < chunks; ++a) {
        if (owner[static_cast<std::size_t>(a)] != busiest) continue;
        for (std::int32_t b = 0; b < chunks; ++b) {
          if (owner[static_cast<std::size_t>(b)] != other) continue;
          const double moved = work[static_cast<std::size_t>(a)] - work[static_cast<std::size_t>(b)];
          const double larger = std::max(at(busiest) - moved, at(other) + moved);
          if (larger >= lowest) continue;
          lowest = larger;
          give = a;
          take = b;
        }
      }
    }
    if (give < 0) return;
    std::swap(owner[static_cast<std::size_t>(give)], owner[static_cast<std::size_t>(take)]);
    loads(work, owner, load);
  }
}

}  // namespace

TokenPlacement::TokenPlacement(const Mesh& mesh, const Placement& placement, std::int64_t padded,
                               const std::vector<AttentionLayer>& layers)
    : mesh_(mesh),
      axes_(mesh.axes(placement.sequence_axes)),
      holders_(order_ranks(mesh, placement)),
      permuted_(placement.token_order == TokenOrder::balanced) {
  const bool whole =
      std::any_of(layers.begin(), layers.end(), [](const AttentionLayer& layer) { return layer.window == 0; });
  for (const AttentionLayer& layer : layers) {
    // Split among other ranks than the holders are.
    if (!placement.window_axes.empty() && layer.window > 0 && whole) continue;
    const double weight = static_cast<double>(layer.heads * layer.head_dim);
    const auto known =
        std::find_if(kinds_.begin(), kinds_.end(), [&](const Kind& kind) { return kind.window == layer.window; });
    if (known != kinds_.end())
      known->weight += weight;
    else
      kinds_.push_back({layer.window, weight});
  }
  const int ring = mesh.find("ring");
  shares_.ranks = holders_;
  shares_.steps = ring >= 0 && mesh.size(ring) > 1;
  shares_.between.resize(static_cast<std::size_t>(holders_ * holders_));
  if (permuted_ && holders_ == 1) permuted_ = false;  // one holder has everything: in order
  if (permuted_) {
    const std::int64_t chunks = holders_ * permuted_chunks;
    LONGHAUL_CHECK(padded % chunks == 0, "{} tokens in {} chunks", padded, chunks);
    const auto n = static_cast<std::size_t>(chunks);
    chunk_work_.resize(n);
    if (shares_.steps && holders_ <= most_by_steps) pair_work_.resize(n * (n + 1) / 2);
    owner_.resize(n);
    best_owner_.resize(n);
    load_.resize(static_cast<std::size_t>(holders_));
    count_.resize(static_cast<std::size_t>(holders_));
    whole_.resize(static_cast<std::size_t>(padded));
  } else {
    Placement fixed = placement;
    if (placement.token_order == TokenOrder::balanced) fixed.token_order = TokenOrder::contiguous;
    whole_ = whole_token_order(mesh, fixed, padded);
  }
}

double TokenPlacement::visible(Range queries, Range keys, std::span<const std::int32_t> starts,
                               std::int32_t length) const {
  double sum = 0;
  std::int64_t begin = queries.begin;
  auto next = std::upper_bound(starts.begin(), starts.end(), begin);
  while (begin < std::min<std::int64_t>(queries.end, length)) {
    const std::int64_t start = *std::prev(next);
    const std::int64_t stop =
        std::min({queries.end, std::int64_t{length}, next == starts.end() ? queries.end : std::int64_t{*next}});
    for (const Kind& kind : kinds_)
      sum += kind.weight * (seen_before(begin, stop, keys.end, start, kind.window) -
                            seen_before(begin, stop, keys.begin, start, kind.window));
    begin = stop;
    if (next != starts.end()) ++next;
  }
  // Padding sees itself.
  const std::int64_t first = std::max(begin, keys.begin), last = std::min(queries.end, keys.end);
  for (const Kind& kind : kinds_) sum += kind.weight * static_cast<double>(std::max(last - first, std::int64_t{0}));
  return sum;
}

double TokenPlacement::path_of_dealing() {
  if (pair_work_.empty()) {
    loads(chunk_work_, owner_, load_);
    return *std::max_element(load_.begin(), load_.end());
  }
  std::fill(shares_.between.begin(), shares_.between.end(), 0.);
  const double* work = pair_work_.data();
  for (std::size_t query = 0; query < owner_.size(); ++query) {
    double* row = shares_.between.data() + owner_[query] * holders_;
    for (std::size_t key = 0; key <= query; ++key) row[owner_[key]] += *work++;
  }
  return shares_.path();
}

// Runs of `unit` neighbouring chunks stay together.
void TokenPlacement::deal_by_work(std::int32_t unit) {
  const std::size_t units = chunk_work_.size() / static_cast<std::size_t>(unit);
  unit_work_.assign(units, 0);
  for (std::size_t chunk = 0; chunk < chunk_work_.size(); ++chunk)
    unit_work_[chunk / static_cast<std::size_t>(unit)] += chunk_work_[chunk];
  by_work_.resize(units);
  unit_owner_.resize(units);
  std::iota(by_work_.begin(), by_work_.end(), 0);
  std::sort(by_work_.begin(), by_work_.end(), [&](std::int32_t a, std::int32_t b) {
    const double x = unit_work_[static_cast<std::size_t>(a)], y = unit_work_[static_cast<std::size_t>(b)];
    return x != y ? x > y : a < b;
  });
  std::fill(load_.begin(), load_.end(), 0.);
  std::fill(count_.begin(), count_.end(), 0);
  for (const std::int32_t one : by_work_) {
    std::size_t to = load_.size();
    for (std::size_t rank = 0; rank < load_.size(); ++rank)
      if (count_[rank] < permuted_chunks / unit && (to == load_.size() || load_[rank] < load_[to])) to = rank;
    unit_owner_[static_cast<std::size_t>(one)] = static_cast<std::int32_t>(to);
    load_[to] += unit_work_[static_cast<std::size_t>(one)];
    ++count_[to];
  }
  improve(unit_work_, unit_owner_, load_);
  for (std::size_t chunk = 0; chunk < owner_.size(); ++chunk)
    owner_[chunk] = unit_owner_[chunk / static_cast<std::size_t>(unit)];
}

void TokenPlacement::deal(std::span<const std::int32_t> starts, std::int32_t length) {
  LONGHAUL_CHECK(!starts.empty() && starts[0] == 0, "documents that do not begin at 0");
  const auto chunks = static_cast<std::int64_t>(chunk_work_.size()),
             size = static_cast<std::int64_t>(whole_.size()) / chunks;
  double* pair = pair_work_.data();
  for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
    const Range queries{chunk * size, (chunk + 1) * size};
    chunk_work_[static_cast<std::size_t>(chunk)] = visible(queries, {0, queries.end}, starts, length);
    if (pair_work_.empty()) continue;
    for (std::int64_t key = 0; key <= chunk; ++key)
      *pair++ = visible(queries, {key * size, (key + 1) * size}, starts, length);
  }

  double shortest = std::numeric_limits<double>::infinity();
  const auto consider = [&] {
    const double path = path_of_dealing();
    if (path >= shortest) return;
    shortest = path;
    best_owner_ = owner_;
  };
  // Of equals the one with the longer runs is the better, and comes first.
  constexpr auto each = static_cast<std::int32_t>(permuted_chunks);
  for (std::int32_t chunk = 0; chunk < chunks; ++chunk) owner_[static_cast<std::size_t>(chunk)] = chunk / each;
  consider();
  for (std::int32_t chunk = 0; chunk < chunks; ++chunk) {
    const std::int32_t half = chunk / (each / 2);  // of 2 x holders
    owner_[static_cast<std::size_t>(chunk)] = std::min(half, 2 * holders_ - 1 - half);
  }
  consider();
  for (const std::int32_t unit : {4, 2, 1}) {
    deal_by_work(unit);
    consider();
  }

  auto slot = whole_.begin();
  for (std::int32_t rank = 0; rank < holders_; ++rank)
    for (std::int32_t chunk = 0; chunk < chunks; ++chunk)
      if (best_owner_[static_cast<std::size_t>(chunk)] == rank) {
        std::iota(slot, slot + size, static_cast<std::int32_t>(chunk * size));
        slot += size;
      }
}

std::span<const std::int32_t> TokenPlacement::whole_order(std::span<const std::int32_t> starts, std::int32_t length) {
  if (permuted_) deal(starts, length);
  return whole_;
}

std::span<const std::int32_t> TokenPlacement::order(int rank, std::span<const std::int32_t> starts,
                                                    std::int32_t length) {
  const auto slots = whole_.size() / static_cast<std::size_t>(mesh_.count(axes_));
  return whole_order(starts, length).subspan(static_cast<std::size_t>(mesh_.index(axes_, rank)) * slots, slots);
}

AttentionShares TokenPlacement::shares(std::span<const std::int32_t> starts, std::int32_t length) {
  const auto whole = whole_order(starts, length);
  const std::size_t held = whole.size() / static_cast<std::size_t>(holders_);
  std::vector<std::pair<std::size_t, Range>> runs;  // and which rank has them
  for (std::size_t slot = 0; slot < whole.size();) {
    std::size_t run = 1;
    while ((slot + run) % held && whole[slot + run] == whole[slot] + static_cast<std::int32_t>(run)) ++run;
    runs.push_back({slot / held, {whole[slot], whole[slot] + static_cast<std::int64_t>(run)}});
    slot += run;
  }
  AttentionShares shares = shares_;
  std::fill(shares.between.begin(), shares.between.end(), 0.);
  for (const auto& [rank, queries] : runs)
    for (const auto& [other, keys] : runs)
      if (keys.begin < queries.end)
        shares.between[rank * static_cast<std::size_t>(holders_) + other] += visible(queries, keys, starts, length);
  return shares;
}

AttentionShares& AttentionShares::operator+=(const AttentionShares& other) {
  LONGHAUL_CHECK(ranks == other.ranks && steps == other.steps, "shares of {} and {} ranks", ranks, other.ranks);
  for (std::size_t i = 0; i < between.size(); ++i) between[i] += other.between[i];
  return *this;
}

double AttentionShares::work(int rank) const {
  const auto row = between.begin() + rank * ranks;
  return std::accumulate(row, row + ranks, 0.);
}

double AttentionShares::mean() const {
  return std::accumulate(between.begin(), between.end(), 0.) / ranks;
}

double AttentionShares::busiest() const {
  double most = 0;
  for (int rank = 0; rank < ranks; ++rank) most = std::max(most, work(rank));
  return most;
}

double AttentionShares::path() const {
  if (!steps) return busiest();
  double sum = 0;
  for (int step = 0; step < ranks; ++step) {
    double most = 0;
    for (int rank = 0; rank < ranks; ++rank)
      most = std::max(most, between[static_cast<std::size_t>(rank * ranks + (rank - step + ranks) % ranks)]);
    sum += most;
  }
  return sum;
}

}  // namespace longhaul
