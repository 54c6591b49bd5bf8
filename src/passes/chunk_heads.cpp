// chunk_heads: attention whose heads are exchanged for the sequence (Ulysses) works through the heads of a rank in
// chunks, so that what is received (q, k, v and the gradient of the output), what attention makes of it and the buffers
// of those exchanges exist for the heads of one chunk. Heads do not depend on each other; where the query heads of one
// KV head come in several chunks, k and v are exchanged once and the sums dk and dv go on from chunk to chunk in the
// statistics' dtype, as the kernels add heads up in one call: no bit changes. A chunk's results take the place of the
// heads that were read of an operand: the output that of q, dq that of the output's gradient.
//
// A chunk has so many heads that what exists for it takes no more than one value of all heads. Left whole are blocks of
// rings and windows (they are other ops by now), what somebody else reads before its exchange, attention of a single
// head a rank, and gradients of heads of one group where queries are split as well. Only where memory asks for it
// (tiles_mlp), and within a budget only where a rank holds 16 blocks of rows or more: of fewer tokens messages and
// calls cost more than bytes.
#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "base/error.h"
#include "ir/rewrite.h"
#include "passes/pass.h"

namespace longhaul::passes {
namespace {

constexpr std::int64_t least_blocks = 16;

std::size_t at(std::int32_t i) {
  return static_cast<std::size_t>(i);
}

struct Heads {
  std::int64_t from, count;  // of a rank
};
// KV heads of a rank that are there at a time, and the chunks of the query heads that read them.
struct Range {
  Heads kv;
  std::vector<Heads> chunks;
};

// Where heads come from: what the exchange reads, where it is for this op only; else what it gave.
struct Source {
  ValueId whole = no_value;  // as the op reads it
  std::int32_t exchange = -1;
  ValueId before = no_value;  // what the exchange reads; no_value when it is not this op's own
};
// Where they go: into the place of a value, behind an exchange (-1: as the op gives them).
struct Sink {
  ValueId result = no_value;  // of all heads
  std::int32_t exchange = -1;
  ValueId host = no_value;
};

struct Chunked {
  std::vector<Range> ranges;
  Source q, k, v, dout;
  Sink out, dk, dv;  // out: dq in the backward pass
};

class Chunking {
 public:
  /// Of ranks that hold so many tokens of a sequence or more.
  Chunking(Graph& graph, std::int64_t least_tokens)
      : graph_(graph),
        least_tokens_(least_tokens),
        builder_(graph, "chunk_heads"),
        maker_(definitions(graph)),
        use_(uses(graph)),
        is_output_(graph.values.size(), 0) {
    builder_.place_results(true);
    for (const auto& output : graph.outputs) is_output_[at(output.value)] = 1;
  }

  void run() {
    std::map<std::size_t, Chunked> chunked;
    std::set<std::size_t> gone;  // exchanges of all heads
    for (std::size_t i = 0; i < graph_.ops.size(); ++i)
      if (auto plan = plan_of(graph_.ops[i])) {
        for (const Source* source : {&plan->q, &plan->k, &plan->v, &plan->dout})
          if (source->before != no_value) gone.insert(at(source->exchange));
        for (const Sink* sink : {&plan->out, &plan->dk, &plan->dv})
          if (sink->exchange >= 0) gone.insert(at(sink->exchange));
        chunked.emplace(i, std::move(*plan));
      }
    if (chunked.empty()) return;
    const std::vector<Op> original = graph_.ops;
    std::size_t i = 0;
    rewrite(builder_, [&](Op& op) {
      const auto found = chunked.find(i);
      if (found != chunked.end())
        emit(op, found->second, original);
      else if (!gone.count(i))
        graph_.ops.push_back(std::move(op));
      ++i;
    });
  }

 private:
  // ---- which and how many

  static bool is_backward(const Op& op) { return op.is("attention_gradient"); }
  std::int64_t ranks(const Op& op) const { return graph_.mesh.count(op.attributes.split().axes('h')); }
  bool holds_all_heads(ValueId value) const {
    const Layout& layout = graph_[value].layout;
    return layout.flat.empty() && !layout.partial && layout.dimensions[2].axes.empty();
  }
  bool only_read_once(ValueId value) const { return !is_output_[at(value)] && use_[at(value)].size() == 1; }

  // The exchange that made an operand of the op in the op's own layer and phase; -1 when none did.
  std::int32_t exchange_of(const Op& op, ValueId value) const {
    const std::int32_t i = maker_[at(value)];
    if (i < 0) return -1;
    const Op& maker = graph_.ops[at(i)];
    const bool near = maker.layer == op.layer && maker.phase == op.phase;
    return near && maker.is("reshard") && holds_all_heads(maker.operands[0]) ? i : -1;
  }
  Source source_of(const Op& op, ValueId value) const {
    Source source{value, exchange_of(op, value), no_value};
    if (source.exchange >= 0 && only_read_once(value)) source.before = graph_.ops[at(source.exchange)].operands[0];
    return source;
  }
  bool alike(ValueId a, ValueId b) const {
    return graph_[a].dtype == graph_[b].dtype && graph_[a].shape == graph_[b].shape &&
           graph_[a].layout == graph_[b].layout;
  }
  // A result that goes through one exchange, and that into the place of `host`.
  std::optional<Sink> sink_of(ValueId value, ValueId host) const {
    if (host == no_value || !only_read_once(value)) return std::nullopt;
    const std::int32_t i = use_[at(value)][0];
    const Op& exchange = graph_.ops[at(i)];
    if (!exchange.is("reshard") || !alike(exchange.results[0], host)) return std::nullopt;
    return Sink{exchange.results[0], i, host};
  }
  // dk or dv: there, or else into the place of k or v itself.
  std::optional<Sink> sink_of(ValueId value, const Source& keys) const {
    if (auto sink = sink_of(value, keys.before)) return sink;
    if (keys.before != no_value || !alike(value, keys.whole)) return std::nullopt;
    return Sink{value, -1, keys.whole};
  }

  std::optional<Chunked> plan_of(const Op& op) const {
    if (!op.is("attention") && !is_backward(op)) return std::nullopt;
    const LetterSplits& split = op.attributes.split();
    if (split.axes('h').empty() || !(split.axes('h') == split.axes('g')) || !split.axes('t').empty())
      return std::nullopt;
    Chunked plan;
    plan.q = source_of(op, op.operands[0]);
    plan.k = source_of(op, op.operands[1]);
    plan.v = source_of(op, op.operands[2]);
    ValueId host = plan.q.exchange >= 0 ? graph_.ops[at(plan.q.exchange)].operands[0] : no_value;
    if (is_backward(op)) {
      plan.dout = source_of(op, op.operands[8]);
      host = plan.dout.before;
    }
    const auto out = sink_of(op.results[0], host);
    if (!out) return std::nullopt;
    const Shape local = local_shape(graph_[host].shape, graph_[host].layout, graph_.mesh);
    if (local[1] < least_tokens_) return std::nullopt;
    plan.out = *out;
    plan.ranges = ranges_of(op, plan);
    // Sums over chunks are those of all queries, or they would count once for each axis that splits queries.
    if (is_backward(op) && plan.ranges[0].chunks.size() > 1 && !split.axes('s').empty()) return std::nullopt;
    if (plan.ranges.size() > 1 && is_backward(op)) {
      const auto dk = sink_of(op.results[1], plan.k), dv = sink_of(op.results[2], plan.v);
      if (!dk || !dv) return std::nullopt;
      plan.dk = *dk;
      plan.dv = *dv;
    }
    if (plan.ranges.size() == 1) {
      if (plan.ranges[0].chunks.size() == 1) return std::nullopt;
      plan.k.before = plan.v.before = no_value;  // as they are
    }
    return plan;
  }

  std::vector<Range> ranges_of(const Op& op, const Chunked& plan) const {
    const std::int64_t heads = graph_[op.operands[0]].shape[2] / ranks(op),
                       kv_heads = graph_[op.operands[1]].shape[2] / ranks(op), group = heads / kv_heads;
    const std::int64_t all = local_bytes(graph_, op.operands[0]), kv = local_bytes(graph_, op.operands[1]);
    std::int64_t wide = all + (plan.q.before != no_value ? all : 0);
    if (kv_heads > 1) wide += is_backward(op) ? 4 * kv : 2 * kv;
    // Kernels sum dq in float32.
    if (is_backward(op)) wide += all + all / static_cast<std::int64_t>(size_of(graph_[op.operands[0]].dtype)) * 4;
    std::int64_t chunk = std::max<std::int64_t>(1, heads * all / wide);
    if (chunk > group) chunk = chunk / group * group;
    std::vector<Range> ranges;
    if (chunk >= group) {
      for (std::int64_t from = 0; from < heads; from += chunk) {
        const Heads here{from, std::min(chunk, heads - from)};
        ranges.push_back({{here.from / group, here.count / group}, {here}});
      }
      return ranges;
    }
    const std::int64_t parts = (group + chunk - 1) / chunk;
    chunk = (group + parts - 1) / parts;
    for (std::int64_t g = 0; g < kv_heads; ++g) {
      Range range{{g, 1}, {}};
      for (std::int64_t from = 0; from < group; from += chunk)
        range.chunks.push_back({g * group + from, std::min(chunk, group - from)});
      ranges.push_back(std::move(range));
    }
    return ranges;
  }

  // ---- chunks

  struct Emission {
    const Op& op;
    const Chunked& plan;
    const std::vector<Op>& original;
    std::int64_t ranks;
    std::map<ValueId, ValueId> now;  // what has become of a value that results take the place of
  };

  ValueId latest(const Emission& e, ValueId value) const {
    const auto found = e.now.find(value);
    return found == e.now.end() ? value : found->second;
  }

  static std::string letters(std::size_t dimensions, char heads) {
    return std::string("bt") + heads + std::string("xyz").substr(0, dimensions - 3);
  }

  ValueId take(const Emission& e, ValueId value, const Heads& heads) {
    Shape shape = graph_[value].shape;
    const std::int64_t block = shape[2] / e.ranks;
    shape[2] = heads.count * e.ranks;
    return builder_.one("take_heads", {value}, {{"from", heads.from}, {"block", block}},
                        {.signature = letters(shape.size(), 'h') + "->" + letters(shape.size(), 'i'),
                         .result_shapes = {shape},
                         .name = graph_[value].name});
  }
  ValueId exchanged(const Emission& e, std::int32_t exchange, ValueId value) {
    const Op& whole = e.original[at(exchange)];
    const Layout layout = graph_[whole.results[0]].layout;  // a copy: the values move when one joins them
    const ValueId result = builder_.reshard(value, layout);
    graph_.ops.back().made_by = whole.made_by;
    return result;
  }

  // Some heads of an operand, as the op reads them.
  ValueId part(const Emission& e, const Source& source, const Heads& heads) {
    if (source.before == no_value) return take(e, latest(e, source.whole), heads);
    return exchanged(e, source.exchange, take(e, latest(e, source.before), heads));
  }
  // [b, h, s]
  ValueId statistics_of(const Emission& e, ValueId all, const Heads& heads) {
    Shape shape = graph_[all].shape;
    shape[1] = heads.count * e.ranks;
    return builder_.one("take_rows", {all}, {{"from", heads.from}, {"blocks", e.ranks}},
                        {.signature = "bht->bit", .result_shapes = {shape}, .name = graph_[all].name});
  }

  // A chunk's part of a result goes where it belongs; the last one makes it what all read.
  void put(Emission& e, const Sink& sink, ValueId value, const Heads& heads, bool last) {
    const ValueId sent = sink.exchange >= 0 ? exchanged(e, sink.exchange, value) : value, host = latest(e, sink.host);
    const std::size_t n = graph_[host].shape.size();
    const std::int64_t block = graph_[host].shape[2] / e.ranks;
    e.now[sink.host] = builder_.one("put_heads", {host, sent}, {{"from", heads.from}, {"block", block}},
                                    {.signature = letters(n, 'h') + "," + letters(n, 'i') + "->" + letters(n, 'h'),
                                     .name = graph_[sink.result].name});
    if (last) define(sink.result);
  }

  // The last op's result is the value of that id.
  void define(ValueId value) {
    ValueId& made = graph_.ops.back().results[0];
    LONGHAUL_CHECK(graph_[made].layout == graph_[value].layout && graph_[made].dtype == graph_[value].dtype &&
                       graph_[made].shape == graph_[value].shape,
                   "chunk_heads changed a value");
    made = value;
  }

  std::vector<ValueId> attention(const Emission& e, std::string_view name, std::vector<ValueId> operands,
                                 std::vector<DType> types) {
    std::vector<ValueId> results =
        builder_.emit(name, std::move(operands), e.op.attributes, {.result_types = std::move(types)});
    graph_.ops.back().made_by = e.op.made_by;
    return results;
  }
  DType type(ValueId value) const { return graph_[value].dtype; }

  void emit(const Op& op, const Chunked& plan, const std::vector<Op>& original) {
    Emission e{op, plan, original, ranks(op), {}};
    if (is_backward(op))
      emit_backward(e);
    else
      emit_forward(e);
  }

  // The range's KV heads: k and v.
  std::pair<ValueId, ValueId> keys_of(const Emission& e, const Range& range) {
    if (e.plan.ranges.size() == 1) return {e.op.operands[1], e.op.operands[2]};
    const ValueId k = part(e, e.plan.k, range.kv);
    return {k, part(e, e.plan.v, range.kv)};
  }

  void emit_forward(Emission& e) {
    const Op& op = e.op;
    std::vector<ValueId> statistics;
    for (const Range& range : e.plan.ranges) {
      const auto [k, v] = keys_of(e, range);
      for (const Heads& chunk : range.chunks) {
        const bool last = &range == &e.plan.ranges.back() && &chunk == &range.chunks.back();
        const auto made =
            attention(e, "attention", {part(e, e.plan.q, chunk), k, v, op.operands[3], op.operands[4], op.operands[5]},
                      {type(op.results[0]), type(op.results[1])});
        statistics.push_back(made[1]);
        put(e, e.plan.out, made[0], chunk, last);
      }
    }
    join_statistics(e, statistics);
  }

  void join_statistics(const Emission& e, const std::vector<ValueId>& parts) {
    constexpr std::string_view part_letters =
        "acdefgijklmnopqrsuvwxyz";  // more than there are chunks of a rank's heads
    LONGHAUL_CHECK(parts.size() <= part_letters.size(), "{} chunks of heads", parts.size());
    std::string signature;
    for (std::size_t i = 0; i < parts.size(); ++i) signature += std::string(i ? "," : "") + "b" + part_letters[i] + "t";
    builder_.one("join_rows", parts, {{"steps", std::vector<double>(parts.size(), 0)}, {"blocks", e.ranks}},
                 {.signature = signature + "->bht",
                  .result_shapes = {graph_[e.op.results[1]].shape},
                  .name = graph_[e.op.results[1]].name});
    define(e.op.results[1]);
  }

  void emit_backward(Emission& e) {
    const Op& op = e.op;
    const DType exact = type(op.operands[7]);  // of sums over chunks: that of statistics
    for (const Range& range : e.plan.ranges) {
      const bool several = range.chunks.size() > 1, end = &range == &e.plan.ranges.back();
      const auto [k, v] = keys_of(e, range);
      std::vector<ValueId> sums;
      for (const Heads& chunk : range.chunks) {
        const ValueId q = part(e, e.plan.q, chunk), delta = take(e, op.operands[6], chunk),
                      log_sum_exp = statistics_of(e, op.operands[7], chunk), dout = part(e, e.plan.dout, chunk);
        std::vector<ValueId> operands{q,     k,           v,   op.operands[3], op.operands[4], op.operands[5],
                                      delta, log_sum_exp, dout};
        operands.insert(operands.end(), sums.begin(), sums.end());
        const auto made = attention(
            e, sums.empty() ? "attention_gradient" : "attention_gradient_add", std::move(operands),
            {type(op.results[0]), several ? exact : type(op.results[1]), several ? exact : type(op.results[2])});
        sums = {made[1], made[2]};
        put(e, e.plan.out, made[0], chunk, end && &chunk == &range.chunks.back());
      }
      finish_keys(e, range, sums, end);
    }
  }
  // dk and dv of a range, in the dtype in which they are read.
  void finish_keys(Emission& e, const Range& range, const std::vector<ValueId>& sums, bool last) {
    for (const std::size_t i : {0u, 1u}) {
      const ValueId result = e.op.results[1 + i];
      ValueId value = sums[i];
      if (type(value) != type(result)) value = builder_.cast(value, type(result));
      if (e.plan.ranges.size() > 1)
        put(e, i ? e.plan.dv : e.plan.dk, value, range.kv, last);
      else
        rename(value, result);
    }
  }
  void rename(ValueId value, ValueId result) {
    for (auto op = graph_.ops.rbegin(); op != graph_.ops.rend(); ++op)
      for (ValueId& made : op->results)
        if (made == value) {
          made = result;
          return;
        }
    LONGHAUL_CHECK(false, "chunk_heads lost a value");
  }

  Graph& graph_;
  const std::int64_t least_tokens_;
  Builder builder_;
  const std::vector<std::int32_t> maker_;
  const std::vector<std::vector<std::int32_t>> use_;
  std::vector<char> is_output_;
};

}  // namespace

void chunk_heads(Graph& graph, const PassContext& context) {
  const Schedule& schedule = context.options.schedule;
  if (!is_accumulate(context.kind) || !tiles_mlp(schedule)) return;
  const bool always = schedule.activations == ActivationMode::recompute;
  Chunking(graph, always ? 0 : least_blocks * schedule.tile_rows).run();
}

}  // namespace longhaul::passes
