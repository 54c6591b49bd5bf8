// The tile loop of blocked attention, forward: a task is a block of queries of the heads that share one kv head. It
// packs each visible block of keys once and folds it into every head's running softmax, so that scratch memory does not
// grow with the sequence.
#include <cmath>
#include <limits>

#include "kernels/cpu/attention_tiled_common.h"

namespace longhaul::cpu {
namespace {

/// Query rows of one task and head. Results do not depend on it (a row meets the keys in the same order whatever its
/// block), so it may follow the number of threads: few, large blocks pack keys less often; many balance better.
int forward_query_block(const AttentionProblem& p, int threads) {
  const std::int64_t group = p.heads / p.kv_heads;
  const auto groups = [](std::int64_t rows) { return (rows + query_group - 1) / query_group; };
  std::int64_t block = std::max<std::int64_t>(1, (p.head_dim > 128 ? 192 : 384) / query_group / group);
  block = std::min(block, groups(p.queries));
  const auto tasks = [&] { return p.batch * p.kv_heads * ((groups(p.queries) + block - 1) / block); };
  while (threads > 1 && block > 1 && tasks() < 6 * threads) block = (block + 1) / 2;
  return static_cast<int>(block * query_group);
}

/// One thread's memory.
struct Workspace {
  WordStorage *staged, *k_transposed, *v_panels;
  WordStorage* q;              // [group][query_block][staged_words]
  float *out, *maximum, *sum;  // [group][query_block](...)
  float *logits, *weights;

  Workspace(Carver& carver, const TileWidths& widths, int query_block, int key_rows, std::int64_t group) {
    const std::int64_t rows = group * query_block;
    staged = carver.take<WordStorage>(static_cast<std::int64_t>(key_rows) * widths.staged_words);
    k_transposed = carver.take<WordStorage>(static_cast<std::int64_t>(key_rows) * widths.words);
    v_panels = carver.take<WordStorage>(static_cast<std::int64_t>(key_rows) * widths.padded_dim);
    q = carver.take<WordStorage>(rows * widths.staged_words);
    out = carver.take<float>(rows * widths.padded_dim);
    maximum = carver.take<float>(rows);
    sum = carver.take<float>(rows);
    logits = carver.take<float>(query_group * key_block);
    weights = carver.take<float>(query_group * key_block);
  }
};

struct Forward {
  const AttentionTileKernels& kernels;
  const AttentionProblem& p;
  const AttentionForward& a;
  const AttentionPlan& plan;
  const TileWidths widths;
  const std::int64_t group;
  const int query_block;

  void run_block(const Workspace& w, std::int64_t batch, std::int64_t kv_head, int block) const {
    const AttentionPlan::Block queries = plan.query_block(block);
    const HeadRows q_rows = query_rows(p, a.dtype), k_rows = key_rows(p, a.dtype);
    for (std::int64_t head = 0; head < group; ++head) {
      const std::int64_t row = head * query_block;
      kernels.stage(q_rows.at(a.q, batch, queries.first, kv_head * group + head), q_rows.stride(), queries.rows,
                    queries.padded_rows, widths, w.q + row * widths.staged_words);
      std::fill_n(w.out + row * widths.padded_dim, queries.padded_rows * widths.padded_dim, 0.f);
      std::fill_n(w.maximum + row, queries.padded_rows, lowest_logit);
      std::fill_n(w.sum + row, queries.padded_rows, 0.f);
    }
    int next = plan.next_visible(batch, block, 0);
    while (next < plan.key_blocks()) {
      const int key = next;
      next = plan.next_visible(batch, block, key + 1);
      const AttentionPlan::Block keys = plan.key_block(key);
      const auto stage = [&](const void* array) {
        kernels.stage(k_rows.at(array, batch, keys.first, kv_head), k_rows.stride(), keys.rows, keys.padded_rows,
                      widths, w.staged);
      };
      stage(a.k);
      kernels.pack_transposed(w.staged, keys.padded_rows, widths, w.k_transposed);
      stage(a.v);
      kernels.pack_panels(w.staged, keys.padded_rows, widths, w.v_panels);
      for (std::int64_t head = 0; head < group; ++head) {
        const std::int64_t row = head * query_block;
        ForwardTile tile = {.widths = widths,
                            .mask = plan.tile(batch, queries, keys),
                            .scale = static_cast<float>(p.scale),
                            .soft_cap = static_cast<float>(p.soft_cap),
                            .q = w.q + row * widths.staged_words,
                            .k_transposed = w.k_transposed,
                            .v_panels = w.v_panels,
                            .out = w.out + row * widths.padded_dim,
                            .maximum = w.maximum + row,
                            .sum = w.sum + row,
                            .logits = w.logits,
                            .weights = w.weights,
                            .prefetch = {}};
        if (head == group - 1 && next < plan.key_blocks()) {
          const AttentionPlan::Block after = plan.key_block(next);
          tile.prefetch[0] = k_rows.prefetch(a.k, batch, after.first, kv_head, after.rows);
          tile.prefetch[1] = k_rows.prefetch(a.v, batch, after.first, kv_head, after.rows);
        }
        kernels.forward_tile(tile);
      }
    }
    for (std::int64_t head = 0; head < group; ++head) finish_head(w, batch, kv_head * group + head, head, queries);
  }

  /// Divides by the sums and writes out and log_sum_exp.
  void finish_head(const Workspace& w, std::int64_t batch, std::int64_t head, std::int64_t slot,
                   const AttentionPlan::Block& queries) const {
    float* sum = w.sum + slot * query_block;
    const float* maximum = w.maximum + slot * query_block;
    float* log_sum_exp = static_cast<float*>(a.log_sum_exp) + (batch * p.heads + head) * p.queries + queries.first;
    for (int row = 0; row < queries.rows; ++row) {
      const bool seen = maximum[row] > lowest_logit / 2;
      log_sum_exp[row] = seen ? static_cast<float>(maximum[row] * 0.6931471805599453 + std::log(double(sum[row])))
                              : -std::numeric_limits<float>::infinity();
      sum[row] = seen ? 1 / sum[row] : 0;
    }
    const HeadRows rows = query_rows(p, a.out_dtype);
    kernels.write_rows({.tile = w.out + slot * query_block * widths.padded_dim,
                        .tile_stride = widths.padded_dim,
                        .rows = queries.rows,
                        .head_dim = widths.head_dim,
                        .factor = 1,
                        .row_factor = sum,
                        .to = rows.at(a.out, batch, queries.first, head),
                        .stride = rows.stride(),
                        .to_float32 = a.out_dtype == DType::float32,
                        .accumulate = false});
  }
};

}  // namespace

std::size_t tiled_forward_scratch_bytes(const AttentionTileKernels& kernels, const AttentionProblem& p, int threads) {
  Carver carver(nullptr);
  const int query_block = forward_query_block(p, threads), keys = keys_of_block(p.head_dim);
  AttentionPlan(p, kernels, query_block, keys, carver);
  for (int thread = 0; thread < threads; ++thread)
    Workspace(carver, tile_widths(kernels, p.head_dim), query_block, keys, p.heads / p.kv_heads);
  return carver.used();
}

void tiled_forward(const AttentionTileKernels& kernels, const AttentionProblem& p, const AttentionForward& a,
                   ThreadPool& pool, void* scratch) {
  Carver carver(scratch);
  const int query_block = forward_query_block(p, pool.threads()), keys = keys_of_block(p.head_dim);
  const AttentionPlan plan(p, kernels, query_block, keys, carver);
  const Forward forward{kernels, p, a, plan, tile_widths(kernels, p.head_dim), p.heads / p.kv_heads, query_block};
  Carver rest = carver;
  Workspace(rest, forward.widths, query_block, keys, forward.group);
  const std::size_t workspace_bytes = rest.used() - carver.used();
  std::byte* workspaces = carver.take<std::byte>(0);
  const TaskOrder order{p.batch * p.kv_heads, plan.query_blocks(), pool.threads()};
  pool.run(order.size(), [&](std::int64_t number, int thread) {
    Carver own(workspaces + static_cast<std::size_t>(thread) * workspace_bytes);
    const Workspace w(own, forward.widths, query_block, keys, forward.group);
    const TaskOrder::Task task = order[number];
    // The last block sees most when the order is the natural one: it goes first, and small ones even the end out.
    forward.run_block(w, task.lane / p.kv_heads, task.lane % p.kv_heads, plan.query_blocks() - 1 - task.block);
  });
}

}  // namespace longhaul::cpu
