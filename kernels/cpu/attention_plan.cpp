#include "kernels/cpu/attention_plan.h"

namespace longhaul::cpu {
namespace {

std::int64_t round_up(std::int64_t n, std::int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

}  // namespace

AttentionPlan::AttentionPlan(const AttentionProblem& problem, const AttentionTileKernels& kernels, int query_block,
                             int key_rows, Carver& carver)
    : problem_(problem),
      strip_(kernels.strip_rows),
      panel_(kernels.panel_keys),
      query_block_(query_block),
      key_block_(key_rows),
      padded_queries_(round_up(problem.queries, query_group)),
      padded_keys_(round_up(problem.keys, key_group)) {
  query_blocks_ = static_cast<int>((padded_queries_ + query_block_ - 1) / query_block_);
  key_blocks_ = static_cast<int>((padded_keys_ + key_block_ - 1) / key_block_);
  const std::int64_t batch = problem.batch;
  query_last_ = carver.take<std::int32_t>(batch * padded_queries_);
  query_first_ = carver.take<std::int32_t>(batch * padded_queries_);
  key_index_ = carver.take<std::int32_t>(batch * padded_keys_);
  strips_ = carver.take<std::int32_t>(batch * (padded_queries_ / strip_) * 4);
  panels_ = carver.take<std::int32_t>(batch * (padded_keys_ / panel_) * 2);
  query_bounds_ = carver.take<std::int32_t>(batch * query_blocks_ * 2);
  key_bounds_ = carver.take<std::int32_t>(batch * key_blocks_ * 2);
  if (carver.counts_only()) return;
  for (std::int64_t b = 0; b < batch; ++b) {
    fill_queries(b);
    fill_keys(b);
  }
}

void AttentionPlan::fill_queries(std::int64_t batch) {
  std::int32_t* last = query_last_ + batch * padded_queries_;
  std::int32_t* first = query_first_ + batch * padded_queries_;
  for (std::int64_t q = 0; q < padded_queries_; ++q) {
    const bool real = q < problem_.queries;
    last[q] = real ? problem_.query_index[batch * problem_.queries + q] : INT_MIN;
    first[q] = real ? first_visible(problem_, batch * problem_.queries + q) : INT_MAX;
  }
  std::int32_t* strip = strips_ + batch * (padded_queries_ / strip_) * 4;
  for (std::int64_t q = 0; q < padded_queries_; q += strip_, strip += 4) {
    const auto [last_min, last_max] = std::minmax_element(last + q, last + q + strip_);
    const auto [first_min, first_max] = std::minmax_element(first + q, first + q + strip_);
    strip[0] = *last_min, strip[1] = *last_max, strip[2] = *first_min, strip[3] = *first_max;
  }
  for (int block = 0; block < query_blocks_; ++block) {
    const Block rows = query_block(block);
    std::int32_t* bounds = query_bounds_ + 2 * (batch * query_blocks_ + block);
    bounds[0] = *std::min_element(first + rows.first, first + rows.first + rows.rows);
    bounds[1] = *std::max_element(last + rows.first, last + rows.first + rows.rows);
  }
}

void AttentionPlan::fill_keys(std::int64_t batch) {
  std::int32_t* index = key_index_ + batch * padded_keys_;
  for (std::int64_t k = 0; k < padded_keys_; ++k)
    index[k] = k < problem_.keys ? problem_.key_index[batch * problem_.keys + k] : INT_MAX;
  std::int32_t* panel = panels_ + batch * (padded_keys_ / panel_) * 2;
  for (std::int64_t k = 0; k < padded_keys_; k += panel_, panel += 2) {
    const auto [least, greatest] = std::minmax_element(index + k, index + k + panel_);
    panel[0] = *least, panel[1] = *greatest;
  }
  for (int block = 0; block < key_blocks_; ++block) {
    const Block keys = key_block(block);
    const auto [least, greatest] = std::minmax_element(index + keys.first, index + keys.first + keys.rows);
    std::int32_t* bounds = key_bounds_ + 2 * (batch * key_blocks_ + block);
    bounds[0] = *least, bounds[1] = *greatest;
  }
}

TileMask AttentionPlan::tile(std::int64_t batch, const Block& queries, const Block& keys) const {
  const std::int64_t q = batch * padded_queries_ + queries.first, k = batch * padded_keys_ + keys.first;
  return {.query_last = query_last_ + q,
          .query_first = query_first_ + q,
          .key_index = key_index_ + k,
          .strips = strips_ + q / strip_ * 4,
          .panels = panels_ + k / panel_ * 2,
          .strip_count = queries.padded_rows / strip_,
          .panel_count = keys.padded_rows / panel_};
}

}  // namespace longhaul::cpu
