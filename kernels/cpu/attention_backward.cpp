// The tile loop of blocked attention, backward: a task is a block of keys of one kv head, whose dk and dv stay in cache
// while every query block that sees it passes, head after head. A head's part is whole before it is added to that of
// the heads before it, so that the query heads of a kv head may also come in several calls. dq is summed over the
// blocks of keys in ascending order, whatever thread has which, so that the bits are always the same: each query block
// of each head says whose turn it is. Tasks begin in ascending order of key blocks and wait only for smaller ones, so
// one can always go on.
#include <atomic>
#include <cmath>
#include <limits>
#include <new>

#include "kernels/cpu/attention_tiled_common.h"

namespace longhaul::cpu {
namespace {

/// Memory that all threads share.
struct Shared {
  float* negative_log_sum_exp;      // [batch][heads][padded queries], in units of log 2
  float* negative_delta;            // the same
  std::atomic<std::int32_t>* turn;  // [batch][heads][query blocks]: the key block whose part of dq comes next
  float* dq;  // [threads, queries, heads of a kv head, head_dim]: of the lanes in work unless dq itself is float32

  Shared(Carver& carver, const AttentionProblem& p, const AttentionPlan& plan, DType dq_dtype, int threads) {
    const std::int64_t heads = p.batch * p.heads;
    negative_log_sum_exp = carver.take<float>(heads * plan.padded_queries());
    negative_delta = carver.take<float>(heads * plan.padded_queries());
    turn = carver.take<std::atomic<std::int32_t>>(heads * plan.query_blocks());
    const std::int64_t together = std::min<std::int64_t>(threads, p.batch * p.kv_heads);
    dq = dq_dtype == DType::float32 ? nullptr
                                    : carver.take<float>(together * p.queries * (p.heads / p.kv_heads) * p.head_dim);
  }
};

/// One thread's memory.
struct Workspace {
  WordStorage *staged, *k_transposed, *v_transposed, *k_panels;  // of the keys
  WordStorage *q, *dout, *q_panels, *dout_panels;                // of the queries
  float *dq, *dk, *dv;                                           // of one query head
  float *sum_dk, *sum_dv;  // of those of a kv head so far, where they are rounded at last
  WordStorage *weights, *dlogits, *dlogit_rows;

  Workspace(Carver& carver, const AttentionTileKernels& kernels, const TileWidths& widths, int keys,
            std::int64_t group) {
    const std::int64_t queries = backward_query_block;
    staged = carver.take<WordStorage>(keys * std::int64_t{widths.staged_words});
    k_transposed = carver.take<WordStorage>(keys * std::int64_t{widths.words});
    v_transposed = carver.take<WordStorage>(keys * std::int64_t{widths.words});
    k_panels = carver.take<WordStorage>(keys * std::int64_t{widths.padded_dim});
    q = carver.take<WordStorage>(queries * widths.staged_words);
    dout = carver.take<WordStorage>(queries * widths.staged_words);
    q_panels = carver.take<WordStorage>(queries * widths.padded_dim);
    dout_panels = carver.take<WordStorage>(queries * widths.padded_dim);
    dq = carver.take<float>(queries * widths.padded_dim);
    dk = carver.take<float>(keys * std::int64_t{widths.padded_dim});
    dv = carver.take<float>(keys * std::int64_t{widths.padded_dim});
    sum_dk = carver.take<float>(group > 1 ? keys * std::int64_t{widths.padded_dim} : 0);
    sum_dv = carver.take<float>(group > 1 ? keys * std::int64_t{widths.padded_dim} : 0);
    weights = carver.take<WordStorage>(queries * key_block / kernels.word_elements);
    dlogits = carver.take<WordStorage>(queries * key_block / kernels.word_elements);
    dlogit_rows =
        kernels.word_elements == 1 ? dlogits : carver.take<WordStorage>(queries * key_block / kernels.word_elements);
  }
};

struct Backward {
  const AttentionTileKernels& kernels;
  const AttentionProblem& p;
  const AttentionBackward& a;
  const AttentionPlan& plan;
  const Shared& shared;
  const TileWidths widths;
  const std::int64_t group;
  const std::int64_t threads;

  std::atomic<std::int32_t>& turn(std::int64_t batch, std::int64_t head, int block) const {
    return shared.turn[(batch * p.heads + head) * plan.query_blocks() + block];
  }
  /// The float32 sums of dq: where a head's rows lie, and in what. Lanes work in sets of as many as there are threads.
  HeadRows sum_rows() const {
    return shared.dq ? HeadRows{p.queries, group, p.head_dim, sizeof(float)} : query_rows(p, DType::float32);
  }
  struct HeadSum {
    float* array;
    std::int64_t batch, head;
  };
  HeadSum sum_of(std::int64_t batch, std::int64_t head) const {
    if (!shared.dq) return {static_cast<float*>(a.dq), batch, head};
    return {shared.dq, (batch * p.kv_heads + head / group) % threads, head % group};
  }

  /// Row statistics of a query block of all heads, whose turn it is first, and dq set to zero where sums are its own.
  void prepare(std::int64_t batch, int block) const {
    const AttentionPlan::Block queries = plan.query_block(block);
    const std::int32_t first = plan.next_visible(batch, block, 0);
    for (std::int64_t head = 0; head < p.heads; ++head)
      new (&turn(batch, head, block)) std::atomic<std::int32_t>(first);
    for (int row = 0; row < queries.padded_rows; ++row)
      for (std::int64_t head = 0; head < p.heads; ++head) {
        const std::int64_t query = queries.first + row, at = (batch * p.heads + head) * plan.padded_queries() + query;
        // Padding, and rows that see nothing: any finite numbers will do, for their weights are masked.
        shared.negative_log_sum_exp[at] = shared.negative_delta[at] = 0;
        if (row >= queries.rows) continue;
        const float log_sum_exp =
            static_cast<const float*>(a.log_sum_exp)[(batch * p.heads + head) * p.queries + query];
        if (log_sum_exp == -std::numeric_limits<float>::infinity()) continue;
        shared.negative_log_sum_exp[at] = -log_sum_exp * 1.44269504f;
        shared.negative_delta[at] = -static_cast<const float*>(a.delta)[(batch * p.queries + query) * p.heads + head];
      }
    if (!shared.dq && !a.accumulate_dq)
      std::fill_n(static_cast<float*>(a.dq) + (batch * p.queries + queries.first) * p.heads * p.head_dim,
                  static_cast<std::size_t>(queries.rows * p.heads * p.head_dim), 0.f);
  }

  struct Tile {
    std::int64_t head;
    int query_block;
  };
  /// The next head and query block that see the key block; a head beyond the group when there is none.
  Tile next_tile(std::int64_t batch, int block, std::int64_t kv_head, Tile tile) const {
    do {
      if (++tile.query_block == plan.query_blocks()) tile = {tile.head + 1, 0};
    } while (tile.head < (kv_head + 1) * group && !plan.visible(batch, tile.query_block, block));
    return tile;
  }

  void run_block(const Workspace& w, std::int64_t batch, std::int64_t kv_head, int block) const {
    const AttentionPlan::Block keys = plan.key_block(block);
    const HeadRows rows = key_rows(p, a.dtype);
    const auto stage = [&](const void* array) {
      kernels.stage(rows.at(array, batch, keys.first, kv_head), rows.stride(), keys.rows, keys.padded_rows, widths,
                    w.staged);
    };
    stage(a.v);
    kernels.pack_transposed(w.staged, keys.padded_rows, widths, w.v_transposed);
    stage(a.k);
    kernels.pack_transposed(w.staged, keys.padded_rows, widths, w.k_transposed);
    kernels.pack_panels(w.staged, keys.padded_rows, widths, w.k_panels);
    const auto clear = [&] {
      std::fill_n(w.dk, keys.padded_rows * widths.padded_dim, 0.f);
      std::fill_n(w.dv, keys.padded_rows * widths.padded_dim, 0.f);
    };
    clear();
    const std::int64_t end = (kv_head + 1) * group;
    Tile tile = next_tile(batch, block, kv_head, {kv_head * group, -1});
    if (tile.head >= end) write_keys(w, batch, kv_head, kv_head * group, keys);
    while (tile.head < end) {
      const Tile next = next_tile(batch, block, kv_head, tile);
      run_tile(w, batch, block, tile, next.head < end ? next : Tile{-1, -1});
      if (next.head != tile.head) {
        write_keys(w, batch, kv_head, tile.head, keys);
        if (next.head < end) clear();
      }
      tile = next;
    }
    if (rounds_sums()) round_keys(w, batch, kv_head, keys);
  }

  /// `next` comes after it; head -1: none does.
  void run_tile(const Workspace& w, std::int64_t batch, int block, const Tile& position, const Tile& next) const {
    const std::int64_t head = position.head;
    const AttentionPlan::Block queries = plan.query_block(position.query_block);
    const HeadRows in = query_rows(p, a.dtype);
    const auto stage = [&](const void* array, WordStorage* rows, WordStorage* panels) {
      kernels.stage(in.at(array, batch, queries.first, head), in.stride(), queries.rows, queries.padded_rows, widths,
                    rows);
      kernels.pack_panels(rows, queries.padded_rows, widths, panels);
    };
    stage(a.q, w.q, w.q_panels);
    stage(a.dout, w.dout, w.dout_panels);
    const std::int64_t row0 = (batch * p.heads + head) * plan.padded_queries() + queries.first;
    BackwardTile tile = {.widths = widths,
                         .mask = plan.tile(batch, queries, plan.key_block(block)),
                         .scale = static_cast<float>(p.scale),
                         .soft_cap = static_cast<float>(p.soft_cap),
                         .q = w.q,
                         .dout = w.dout,
                         .q_panels = w.q_panels,
                         .dout_panels = w.dout_panels,
                         .k_transposed = w.k_transposed,
                         .v_transposed = w.v_transposed,
                         .k_panels = w.k_panels,
                         .negative_log_sum_exp = shared.negative_log_sum_exp + row0,
                         .negative_delta = shared.negative_delta + row0,
                         .dq = w.dq,
                         .dk = w.dk,
                         .dv = w.dv,
                         .weights = w.weights,
                         .dlogits = w.dlogits,
                         .dlogit_rows = w.dlogit_rows,
                         .prefetch = {}};
    const HeadSum sum = sum_of(batch, head);
    tile.prefetch[0] = sum_rows().prefetch(sum.array, sum.batch, queries.first, sum.head, queries.rows);
    if (next.head >= 0) {
      const AttentionPlan::Block after = plan.query_block(next.query_block);
      tile.prefetch[1] = in.prefetch(a.q, batch, after.first, next.head, after.rows);
      tile.prefetch[2] = in.prefetch(a.dout, batch, after.first, next.head, after.rows);
    }
    kernels.backward_tile(tile);
    add_dq(w, batch, head, position.query_block, block, queries);
  }

  /// Waits for the key blocks before `block` and adds this one's part.
  void add_dq(const Workspace& w, std::int64_t batch, std::int64_t head, int query_block, int block,
              const AttentionPlan::Block& queries) const {
    std::atomic<std::int32_t>& next = turn(batch, head, query_block);
    for (std::int32_t now = next.load(std::memory_order_acquire); now != block;
         now = next.load(std::memory_order_acquire))
      next.wait(now, std::memory_order_acquire);
    const HeadRows rows = sum_rows();
    const HeadSum sum = sum_of(batch, head);
    kernels.write_rows({.tile = w.dq,
                        .tile_stride = widths.padded_dim,
                        .rows = queries.rows,
                        .head_dim = widths.head_dim,
                        .factor = static_cast<float>(p.scale),
                        .row_factor = nullptr,
                        .to = rows.at(sum.array, sum.batch, queries.first, sum.head),
                        .stride = rows.stride(),
                        .to_float32 = true,
                        .accumulate = true});
    next.store(plan.next_visible(batch, query_block, block + 1), std::memory_order_release);
    next.notify_all();
  }

  /// Whether dk and dv are summed over the heads of a kv head in the workspace, for lack of precision where they go.
  bool rounds_sums() const { return group > 1 && a.dkv_dtype != DType::float32; }

  /// Adds the part of a query head of the kv head to the sums of those before it.
  void write_keys(const Workspace& w, std::int64_t batch, std::int64_t kv_head, std::int64_t head,
                  const AttentionPlan::Block& keys) const {
    const HeadRows rows = key_rows(p, a.dkv_dtype);
    const bool first = head % group == 0;
    const auto write = [&](const float* tile, float factor, float* sum, void* to) {
      kernels.write_rows({.tile = tile,
                          .tile_stride = widths.padded_dim,
                          .rows = keys.rows,
                          .head_dim = widths.head_dim,
                          .factor = factor,
                          .row_factor = nullptr,
                          .to = rounds_sums() ? sum : rows.at(to, batch, keys.first, kv_head),
                          .stride = rounds_sums() ? widths.padded_dim : rows.stride(),
                          .to_float32 = rounds_sums() || a.dkv_dtype == DType::float32,
                          .accumulate = !first || a.accumulate_dkv});
    };
    write(w.dk, static_cast<float>(p.scale), w.sum_dk, a.dk);
    write(w.dv, 1, w.sum_dv, a.dv);
  }

  void round_keys(const Workspace& w, std::int64_t batch, std::int64_t kv_head,
                  const AttentionPlan::Block& keys) const {
    const HeadRows rows = key_rows(p, a.dkv_dtype);
    const auto write = [&](const float* sum, void* to) {
      kernels.write_rows({.tile = sum,
                          .tile_stride = widths.padded_dim,
                          .rows = keys.rows,
                          .head_dim = widths.head_dim,
                          .factor = 1,
                          .row_factor = nullptr,
                          .to = rows.at(to, batch, keys.first, kv_head),
                          .stride = rows.stride(),
                          .to_float32 = false,
                          .accumulate = false});
    };
    write(w.sum_dk, a.dk);
    write(w.sum_dv, a.dv);
  }

  /// Sets the sums of a lane's query block to zero.
  void clear_dq(std::int64_t lane, int block) const {
    const AttentionPlan::Block queries = plan.query_block(block);
    std::fill_n(shared.dq + (lane % threads * p.queries + queries.first) * group * p.head_dim,
                static_cast<std::size_t>(queries.rows * group * p.head_dim), 0.f);
  }
  /// Rounds them to dq's type.
  void round_dq(std::int64_t lane, int block) const {
    const AttentionPlan::Block queries = plan.query_block(block);
    const HeadRows from = sum_rows(), to = query_rows(p, a.dq_dtype);
    kernels.write_rows({.tile = static_cast<const float*>(from.at(shared.dq, lane % threads, queries.first, 0)),
                        .tile_stride = static_cast<int>(from.stride()),
                        .rows = queries.rows,
                        .head_dim = static_cast<int>(from.stride()),
                        .factor = 1,
                        .row_factor = nullptr,
                        .to = to.at(a.dq, lane / p.kv_heads, queries.first, lane % p.kv_heads * group),
                        .stride = to.stride(),
                        .to_float32 = false,
                        .accumulate = false});
  }
};

}  // namespace

std::size_t tiled_backward_scratch_bytes(const AttentionTileKernels& kernels, const AttentionProblem& p, DType dq_dtype,
                                         int threads) {
  Carver carver(nullptr);
  const int keys = keys_of_block(p.head_dim);
  const AttentionPlan plan(p, kernels, backward_query_block, keys, carver);
  Shared(carver, p, plan, dq_dtype, threads);
  for (int thread = 0; thread < threads; ++thread)
    Workspace(carver, kernels, tile_widths(kernels, p.head_dim), keys, p.heads / p.kv_heads);
  return carver.used();
}

void tiled_backward(const AttentionTileKernels& kernels, const AttentionProblem& p, const AttentionBackward& a,
                    ThreadPool& pool, void* scratch) {
  Carver carver(scratch);
  const int keys = keys_of_block(p.head_dim);
  const AttentionPlan plan(p, kernels, backward_query_block, keys, carver);
  const Shared shared(carver, p, plan, a.dq_dtype, pool.threads());
  const Backward backward{kernels,       p, a, plan, shared, tile_widths(kernels, p.head_dim), p.heads / p.kv_heads,
                          pool.threads()};
  Carver rest = carver;
  Workspace(rest, kernels, backward.widths, keys, backward.group);
  const std::size_t workspace_bytes = rest.used() - carver.used();
  std::byte* workspaces = carver.take<std::byte>(0);

  const std::int64_t query_tasks = p.batch * plan.query_blocks();
  pool.run(query_tasks, [&](std::int64_t task, int) {
    backward.prepare(task / plan.query_blocks(), static_cast<int>(task % plan.query_blocks()));
  });
  const TaskOrder order{p.batch * p.kv_heads, plan.key_blocks(), pool.threads()};
  // Without sums of their own all lanes are one set; else each set's are rounded before the next takes their place.
  const std::int64_t set = shared.dq ? std::min<std::int64_t>(order.lanes, pool.threads()) : order.lanes;
  for (std::int64_t first = 0; first < order.lanes; first += set) {
    const std::int64_t lanes = std::min(set, order.lanes - first);
    const auto on_sums = [&](void (Backward::*work)(std::int64_t, int) const) {
      if (shared.dq)
        pool.run(lanes * plan.query_blocks(), [&](std::int64_t task, int) {
          (backward.*work)(first + task / plan.query_blocks(), static_cast<int>(task % plan.query_blocks()));
        });
    };
    on_sums(&Backward::clear_dq);
    pool.run(lanes * order.blocks, [&](std::int64_t number, int thread) {
      Carver own(workspaces + static_cast<std::size_t>(thread) * workspace_bytes);
      const Workspace w(own, kernels, backward.widths, keys, backward.group);
      const TaskOrder::Task task = order[first * order.blocks + number];
      backward.run_block(w, task.lane / p.kv_heads, task.lane % p.kv_heads, task.block);
    });
    on_sums(&Backward::round_dq);
  }
}

}  // namespace longhaul::cpu
