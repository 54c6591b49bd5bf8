// The formulas of docs/parallelism.md against what the compiled programs send, exactly.
#include <algorithm>
#include <catch2/catch.hpp>
#include <map>

#include "../train/small_models.h"
#include "base/error.h"
#include "plan/mesh.h"

using namespace longhaul;
using namespace longhaul::testing;

namespace {

struct Case {
  std::string split;
  std::int64_t data = 1, zero_stage = 0, rows = 2, length = 48, micro_batches = 1;
  DType dtype = DType::float32;
  std::string order = "auto", window_layers = "auto";
  std::string state = "";  // more keys of parallelism
  std::int64_t bucket_size = CompileOptions().schedule.bucket_size;
};

// What a rank sends in the programs named, by collective and by the pass that made it.
using Sent = std::map<std::string, std::int64_t>;

struct Run {
  ResolvedParallelism parallel;
  CompileRequest request;
  CompiledModel model;
  Sent sent(ProgramKind kind) const {
    Sent bytes;
    for (const TrafficRow& row : predicted_traffic("", model.program(kind), 0))
      bytes[row.collective + " " + row.group] += row.bytes_sent;
    return bytes;
  }
  std::int64_t messages(ProgramKind kind, const std::string& collective) const {
    std::int64_t calls = 0;
    for (const TrafficRow& row : predicted_traffic("", model.program(kind), 0))
      if (row.collective + " " + row.group == collective) calls += row.calls;
    return calls;
  }
};

Run compiled(const TransformerSpec& spec, const Case& c, KeepGathered lifetime = KeepGathered::never) {
  const SequenceSplit split =
      *parse_experiment("model: {config: m}\nparallelism: {sequence: " + c.split + "}", "/s/r.yaml")
           .parallelism.sequence;
  const std::int64_t world = c.data * split.ranks();
  std::vector<AttentionLayer> layers;
  for (const LayerSpec* layer : spec.each_layer()) layers.push_back({layer->attention.heads, layer->attention.window});
  Run run;
  run.parallel = resolve_parallelism(
      parse_experiment(
          fmt::format("model: {{config: m}}\nparallelism: {{sequence: {}, zero_stage: {}, token_order: {}, "
                      "window_layers: {}{}}}",
                      c.split, c.zero_stage, c.order, c.window_layers, c.state),
          "/s/r.yaml"),
      world, world, layers);
  CompileRequest& request = run.request;
  request.scratch = cpu_scratch_bytes();
  request.spec = spec;
  request.options = options_for(spec, c.dtype, 0);
  request.mesh = place_ranks(run.parallel, request.options.placement);
  request.options.schedule.keep_gathered = lifetime;
  request.options.schedule.bucket_size = c.bucket_size;
  request.options.schedule.activations = ActivationMode::keep;
  request.batch = c.rows * c.data;
  request.sequence = padded_sequence(run.parallel, c.length);
  request.kinds = step_kinds(c.micro_batches, false);
  run.model = compile_model(request);
  return run;
}

// KV heads after the repetition that makes them divide by u: the least multiple of k that u divides and that divides h.
std::int64_t repeated(std::int64_t h, std::int64_t k, std::int64_t u) {
  std::int64_t copies = 1;
  while (k * copies % u || h % (k * copies)) ++copies;
  return k * copies;
}

}  // namespace

TEST_CASE("what each strategy moves is what its formula says") {
  TransformerSpec grouped = small_llama(), window = small_llama(), long_window = small_llama(), narrow = small_llama();
  for (auto& group : window.layers) group.layer.attention.window = 5;
  for (auto& group : long_window.layers) group.layer.attention.window = 20;  // longer than a piece of four
  for (auto& group : narrow.layers) group.layer.attention.kv_heads = 1;
  struct Model {
    const TransformerSpec& spec;
    std::string order;
  };
  for (const auto& [spec, order] :
       {Model{grouped, "auto"}, {window, "auto"}, {window, "zigzag"}, {long_window, "auto"}, {narrow, "auto"}})
    for (const DType dtype : {DType::float64, DType::float32, DType::bfloat16})
      for (const std::string split :
           {"1", "2", "4", "{ring: 2}", "{ring: 3}", "{ring: 4}", "{gather_kv: 2}", "{gather_kv: 3}",
            "{ulysses: 2, ring: 2}", "{ulysses: 4, ring: 3}", "{ulysses: 2, gather_kv: 2}"}) {
        const auto& attention = spec.layers[0].layer.attention;
        const Case c{.split = split, .dtype = dtype, .order = order};
        const Run run = compiled(spec, c);
        const std::int64_t u = run.parallel.ulysses, r = run.parallel.ring, g = run.parallel.gather;
        INFO(split << " " << name_of(dtype) << " window " << attention.window << " " << order);
        // As the documentation names them.
        const std::int64_t n = u * r * g, T = c.rows * run.request.sequence / n, L = spec.layer_count();
        const std::int64_t h = attention.heads, d = attention.head_dim, k = repeated(h, attention.kv_heads, u);
        const std::int64_t e = static_cast<std::int64_t>(size_of(dtype)), a = std::max<std::int64_t>(4, e);
        const std::int64_t w = attention.window, p = r * g, B = c.rows, S = run.request.sequence;
        std::int64_t H = (p - 1) * S / p;  // rows of other ranks' keys
        if (w) H = std::min(H, order == "zigzag" ? 2 * (w - 1) : w - 1);
        const bool halo = H < (p - 1) * S / p;
        const std::int64_t m = r - 1;  // hops of a whole ring

        const Sent sent = run.sent(ProgramKind::accumulate_only);
        const auto bytes = [&](const std::string& name) {
          const auto found = sent.find(name);
          return found == sent.end() ? 0 : found->second;
        };
        CHECK(bytes("all_to_all ulysses") == L * T * (d * (4 * h + 4 * k) * e + h * a) * (u - 1) / u);
        CHECK(bytes("all_gather ulysses") == 2 * 4 * T * (u - 1));
        if (halo) {
          const std::int64_t rows = 2 * B * H * k / u * d;  // of K and V
          CHECK(bytes("shift ring") == (r > 1 ? L * rows * (2 * e + a) + 4 * B * H : 0));
          CHECK(bytes("shift gather") == (g > 1 ? L * rows * (e + a) + 4 * B * H : 0));
          CHECK(bytes("all_gather gather") + bytes("reduce_scatter gather") + bytes("all_gather gather.ulysses") == 0);
          continue;
        }
        CHECK(bytes("shift gather") == 0);
        const std::int64_t home = m > 0 ? a * m + e : 0;
        CHECK(bytes("shift ring") == L * (2 * 2 * T * k * d * e * m + 2 * T * k * d * home) + 4 * T * u * m);
        const std::int64_t gathered = L * 2 * T * k * d * e * (g - 1);
        if (u == 1)
          CHECK(bytes("all_gather gather") == gathered + 4 * T * (g - 1));
        else {
          CHECK(bytes("all_gather gather") == gathered);
          CHECK(bytes("all_gather gather.ulysses") == (g > 1 ? 4 * T * (n - 1) : 0));
        }
        CHECK(bytes("reduce_scatter gather") == L * 2 * T * k * d * a * (g - 1));
        // Messages: q, k, v there and the output back, its gradient there and dq, dk, dv back; a block of keys and
        // values (and the gradients that belong to them) a hop, the places with the first and then alone; K and V.
        const auto messages = [&](const std::string& name) { return run.messages(ProgramKind::accumulate_only, name); };
        CHECK(messages("all_to_all ulysses") == (u > 1 ? 4 * L : 0));
        CHECK(messages("shift ring") == (m > 0 ? L * (2 * m + 1) + m - 1 : 0));
        CHECK(messages("reduce_scatter gather") == (g > 1 ? L : 0));
        CHECK(messages("all_gather gather") == (g > 1 ? L : 0));
      }
}

// H as it is defined for any order: over all distances, the rows of a rank's buffer that some rank needs from the rank
// at that distance before it; for `ranks` that hold consecutive parts of the buffers laid together.
std::int64_t rows_reached(const Run& run, std::int64_t ranks, std::int64_t window) {
  const auto order = whole_token_order(run.request.mesh, run.request.options.placement, run.request.sequence);
  const auto block = static_cast<std::size_t>(run.request.sequence / ranks), n = static_cast<std::size_t>(ranks);
  std::int64_t rows = 0;
  for (std::size_t distance = 1; distance < n; ++distance)
    for (std::size_t row = 0; row < block; ++row) {
      bool needed = false;
      for (std::size_t q = 0; q < n * block; ++q) {
        const std::int64_t key = order[(q / block + n - distance) % n * block + row];
        needed |= key <= order[q] && key > order[q] - window;
      }
      rows += needed;
    }
  return rows;
}

TEST_CASE("layers with a window that are split another way move what their own formula says") {
  TransformerSpec spec = small_llama();
  LayerSpec whole = small_layer(8, 2, 8, 20), window = small_layer(4, 2, 4, 12);
  window.attention.window = 6;
  spec.layers = {{2, whole}, {3, window}};
  for (const auto& [split, way] : {std::pair<std::string, std::string>{"4", "{gather_kv: 4}"},
                                   {"4", "{ring: 4}"},
                                   {"{ring: 4}", "{gather_kv: 4}"},
                                   {"{ring: 3}", "{gather_kv: 3}"},
                                   {"{ulysses: 2, ring: 2}", "{gather_kv: 4}"},
                                   {"{ulysses: 2, ring: 2}", "{ulysses: 2, gather_kv: 2}"},
                                   {"{ulysses: 2, ring: 4}", "{ring: 8}"},
                                   {"{ring: 4}", "4"}})
    for (const DType dtype : {DType::float32, DType::bfloat16})
      for (const std::string order : {"contiguous", "zigzag"}) {
        INFO(split << ", windows " << way << " " << name_of(dtype) << " " << order);
        const Run run = compiled(spec, {.split = split, .dtype = dtype, .order = order, .window_layers = way});
        const SequenceSplit others{run.parallel.ulysses, run.parallel.ring, run.parallel.gather};
        const std::int64_t n = others.ranks(), B = 2, T = B * run.request.sequence / n;
        const std::int64_t e = static_cast<std::int64_t>(size_of(dtype)), a = 4;
        std::int64_t all_to_all = 0, shift = 0, all_gather = 0;
        for (const bool windowed : {false, true}) {
          const SequenceSplit& by = windowed ? *run.parallel.window_layers : others;
          const auto& attention = (windowed ? window : whole).attention;
          const std::int64_t L = windowed ? 3 : 2, u = by.ulysses, p = n / u, h = attention.heads,
                             d = attention.head_dim, k = repeated(h, attention.kv_heads, u);
          all_to_all += L * T * (d * (2 * h + 2 * k) * e * 2 + h * a) * (u - 1) / u;
          if (!windowed || u != others.ulysses) all_gather += 2 * 4 * T * (u - 1);
          if (p == 1) continue;
          if (windowed) {
            const std::int64_t H = rows_reached(run, p, 6);
            REQUIRE(H < (p - 1) * run.request.sequence / p);
            if (order == "contiguous" || others.ranks() == others.ulysses) REQUIRE(H == 5);
            shift += L * 2 * B * H * (k / u) * d * (by.ring > 1 ? 2 * e + a : e + a) + 4 * B * H;
          } else {
            shift += L * 2 * T * k * d * (2 * e * (p - 1) + a * (p - 1) + e) + 4 * T * u * (p - 1);
          }
        }
        std::map<std::string, std::int64_t> sent;
        for (const TrafficRow& row : predicted_traffic("", run.model.program(ProgramKind::accumulate_only), 0))
          sent[row.collective] += row.bytes_sent;
        CHECK(sent["all_to_all"] == all_to_all);
        CHECK(sent["shift"] == shift);
        CHECK(sent["all_gather"] == all_gather);
        CHECK(sent["reduce_scatter"] == 0);
      }
}

TEST_CASE("what each ZeRO stage moves is what its formula says") {
  const TransformerSpec spec = small_llama();
  for (const DType dtype : {DType::float32, DType::bfloat16})
    for (const auto& [data, split] : {std::pair<std::int64_t, std::string>{4, "1"}, {2, "2"}, {1, "{ring: 4}"}})
      for (std::int64_t stage = 0; stage <= 3; ++stage) {
        const Run run =
            compiled(spec, {.split = split, .data = data, .zero_stage = stage, .micro_batches = 3, .dtype = dtype});
        INFO(data << " x " << split << " zero " << stage << " " << name_of(dtype));
        const std::int64_t N = 4, f = 4, w = static_cast<std::int64_t>(size_of(dtype));
        std::int64_t P = 0, again = 0;  // shards of all parameters; of those that the backward pass reads
        for (const Parameter& parameter : parameters(spec)) {
          const std::int64_t shard = (parameter.elements() + N - 1) / N;
          P += shard;
          if (parameter.name != "embedding.tokens" && parameter.name != "head.weight") again += shard;
        }
        const std::string everyone = run.request.mesh.text(run.request.mesh.live());
        const auto bytes = [&](ProgramKind kind, const std::string& collective) {
          const Sent sent = run.sent(kind);
          const auto found = sent.find(collective + " " + everyone);
          return found == sent.end() ? 0 : found->second;
        };
        // Of one number (the loss, the sum of squares): 8 bytes to and from each rank.
        const std::int64_t number = 2 * (N - 1) * 8;
        using enum ProgramKind;
        for (const ProgramKind kind : {accumulate_first, accumulate_middle, accumulate_last}) {
          const bool last = kind == accumulate_last;
          CHECK(bytes(kind, "all_reduce") == number + (last && stage == 0 ? 2 * (N - 1) * P * f : 0));
          CHECK(bytes(kind, "reduce_scatter") == (stage >= 2 || (last && stage == 1) ? (N - 1) * P * f : 0));
          if (split != "1" && split != "2") CHECK(bytes(kind, "shift") > 0);
          if (stage == 3)
            CHECK(bytes(kind, "all_gather") == (N - 1) * (P + again) * w);
          else
            CHECK(bytes(kind, "all_gather") == 0);
        }
        CHECK(bytes(update, "all_gather") == (stage == 1 || stage == 2 ? (N - 1) * P * w : 0));
        CHECK(bytes(update, "all_reduce") == (stage == 0 ? 0 : number));
      }
}

namespace {

// Of all parameters, and of those that the backward pass reads and the forward pass has gathered before: the bytes that
// one rank sends to gather them in groups of n, and those of the whole tensors, each rounded up to a cache line.
struct Gathered {
  std::int64_t all = 0, again = 0, whole = 0, whole_again = 0;
};
Gathered gathered(const TransformerSpec& spec, std::int64_t n, std::int64_t w) {
  Gathered sums;
  for (const Parameter& parameter : parameters(spec)) {
    const std::int64_t shard = (parameter.elements() + n - 1) / n, whole = (parameter.elements() * w + 63) / 64 * 64;
    bool read_again = parameter.name != "embedding.tokens" && parameter.name != "embedding.positions" &&
                      parameter.name != "head.weight" && !parameter.name.ends_with(".bias");
    if (parameter.name == "embedding.tokens" && spec.tied_head) read_again = true;  // by the head
    sums.all += (n - 1) * shard * w;
    sums.whole += whole;
    if (read_again) sums.again += (n - 1) * shard * w;
    if (read_again) sums.whole_again += whole;
  }
  return sums;
}

// The most bytes of gathered parameters that live at once among a program's own buffers.
std::int64_t most_gathered(const Graph& graph) {
  std::vector<std::int64_t> last(graph.values.size(), -1), bytes(graph.values.size(), 0);
  for (std::size_t i = 0; i < graph.ops.size(); ++i)
    for (ValueId operand : graph.ops[i].operands) last[static_cast<std::size_t>(operand)] = static_cast<int>(i);
  std::int64_t live = 0, most = 0;
  for (std::size_t i = 0; i < graph.ops.size(); ++i) {
    const Op& op = graph.ops[i];
    if (op.is("all_gather") && is_state(graph[op.operands[0]].role)) {
      for (const ValueId result : op.results) {
        const Value& value = graph[result];
        live += bytes[static_cast<std::size_t>(result)] =
            (element_count(value.shape) * static_cast<std::int64_t>(size_of(value.dtype)) + 63) / 64 * 64;
      }
    }
    most = std::max(most, live);
    for (std::size_t v = 0; v < last.size(); ++v)
      if (last[v] == static_cast<int>(i)) live -= bytes[v];
  }
  return most;
}

}  // namespace

TEST_CASE("what shard groups move is what their formula says") {
  const TransformerSpec spec = small_llama();
  struct Groups {
    std::int64_t data;
    std::string split;
    std::int64_t n;
    std::string inside, outside;
  };
  for (const Groups& g : {Groups{2, "2", 2, "ulysses", "dp"}, Groups{1, "{ulysses: 2, ring: 2}", 2, "ulysses", "ring"},
                          Groups{4, "1", 2, "dp_inner", "dp_outer"}, Groups{6, "2", 6, "dp_inner.ulysses", "dp_outer"},
                          Groups{2, "2", 1, "-", "dp.ulysses"}})
    for (const DType dtype : {DType::float32, DType::bfloat16})
      for (std::int64_t stage = 1; stage <= 3; ++stage) {
        const Run run = compiled(spec, {.split = g.split,
                                        .data = g.data,
                                        .zero_stage = stage,
                                        .micro_batches = 3,
                                        .dtype = dtype,
                                        .state = fmt::format(", shard_group: {}", g.n)});
        INFO(g.data << " x " << g.split << " in groups of " << g.n << " zero " << stage << " " << name_of(dtype));
        const std::int64_t N = run.parallel.data * run.parallel.sequence(), n = g.n, R = N / n, f = 4;
        const std::int64_t w = static_cast<std::int64_t>(size_of(dtype)), number = 8;
        std::int64_t P = 0, across = 0;
        for (const Parameter& parameter : parameters(spec)) {
          const std::int64_t shard = (parameter.elements() + n - 1) / n;
          P += shard;
          across += (shard + R - 1) / R;
        }
        const Gathered gathers = gathered(spec, n, w);
        const auto bytes = [&](ProgramKind kind, const std::string& collective, const std::string& group) {
          const Sent sent = run.sent(kind);
          const auto found = sent.find(collective + " " + group);
          return found == sent.end() ? 0 : found->second;
        };
        using enum ProgramKind;
        for (const ProgramKind kind : {accumulate_first, accumulate_middle, accumulate_last}) {
          const bool last = kind == accumulate_last;
          const std::int64_t loss = n == 1 ? 2 * (N - 1) * number : 0;  // else among all ranks, another group
          CHECK(bytes(kind, "reduce_scatter", g.inside) == (stage >= 2 || last ? (n - 1) * P * f : 0));
          CHECK(bytes(kind, "all_reduce", g.outside) == loss + (last ? 2 * (R - 1) * across * f : 0));
          // Ulysses gathers the places of its tokens over the same ranks.
          const std::int64_t T = 2 * run.request.sequence / run.parallel.sequence();
          const std::int64_t places = g.inside == "ulysses" ? 8 * T * (run.parallel.ulysses - 1) : 0;
          CHECK(bytes(kind, "all_gather", g.inside) == places + (stage == 3 ? gathers.all + gathers.again : 0));
        }
        CHECK(bytes(update, "all_gather", g.inside) == (stage < 3 ? gathers.all : 0));
        // The norm: every shard of a group once.
        CHECK(bytes(update, "all_reduce", g.inside) == (n > 1 ? 2 * (n - 1) * number : 0));
        CHECK(bytes(update, "all_reduce", g.outside) == 0);
      }
}

TEST_CASE("what is kept of gathered parameters saves what its formula says, and takes what it says") {
  for (const TransformerSpec& spec : {small_llama(), small_gpt2()})
    for (const std::int64_t n : {4, 2})
      for (const DType dtype : {DType::float32, DType::bfloat16})
        for (const KeepGathered lifetime : {KeepGathered::never, KeepGathered::backward, KeepGathered::step}) {
          const Case c{.split = "1",
                       .data = 4,
                       .zero_stage = 3,
                       .micro_batches = 3,
                       .dtype = dtype,
                       .state = fmt::format(", shard_group: {}", n),
                       .bucket_size = 0};
          const std::int64_t w = static_cast<std::int64_t>(size_of(dtype));
          const Run run = compiled(spec, c, lifetime);
          INFO("groups of " << n << " " << name_of(dtype) << " lifetime " << static_cast<int>(lifetime));
          const Gathered gathers = gathered(spec, n, w);
          using enum ProgramKind;
          for (const ProgramKind kind : {accumulate_first, accumulate_middle, accumulate_last}) {
            const Graph& graph = run.model.program(kind).graph;
            const Sent sent = run.sent(kind);
            std::int64_t bytes = 0;
            for (const auto& [name, amount] : sent)
              if (name.starts_with("all_gather ")) bytes += amount;
            if (lifetime == KeepGathered::never) {
              CHECK(bytes == gathers.all + gathers.again);
              // One gather a phase, and none waits for another layer's.
              std::map<std::pair<std::string, Phase>, int> times;
              std::int64_t layer = 0;
              for (const Op& op : graph.ops)
                if (op.is("all_gather")) ++times[{graph[op.operands[0]].name, op.phase}];
              for (const auto& [what, count] : times) CHECK(count == 1);
              for (const Parameter& parameter : parameters(spec))
                if (parameter.name.starts_with("layers.0.")) layer += (parameter.elements() * w + 63) / 64 * 64;
              CHECK(most_gathered(graph) < layer);
            } else if (lifetime == KeepGathered::backward) {
              CHECK(bytes == gathers.all);
              // All of it at the loss head, an untied head's weight, which nobody has gathered before, and a bias that
              // goes
              // at once.
              const std::int64_t more =
                  most_gathered(graph) - gathers.whole_again - (spec.tied_head ? 0 : (29 * 16 * w + 63) / 64 * 64);
              CHECK(more == (spec.learned_positions ? 64 : 0));
            } else {
              CHECK(bytes == (kind == accumulate_first ? gathers.all : 0));
            }
          }
          std::int64_t kept = 0;
          for (const auto& [name, slot] : run.model.named.slots) {
            if (!slot.state || slot.state->role != Role::gathered) continue;
            CHECK(slot.category == MemoryCategory::parameters);
            kept += slot.bytes;
          }
          CHECK(kept == (lifetime == KeepGathered::step ? gathers.whole : 0));
        }
}

TEST_CASE("one micro-batch gathers a parameter once for as long as it is kept") {
  const TransformerSpec spec = small_llama();
  const Case c{.split = "1", .data = 4, .zero_stage = 3};
  const Gathered gathers = gathered(spec, 4, 4);
  for (const KeepGathered lifetime : {KeepGathered::backward, KeepGathered::step}) {
    const Run run = compiled(spec, c, lifetime);
    CHECK(run.sent(ProgramKind::accumulate_only).at("all_gather dp") == gathers.all);
    // What waits for backward is memory of parameters, and the peak shows it.
    const MemoryPeak peak = memory_peak(run.model);
    std::int64_t fixed = 0;
    for (const auto& [name, slot] : run.model.named.slots)
      if (slot.category == MemoryCategory::parameters) fixed += slot.bytes;
    const std::int64_t parameters_there = peak.bytes[static_cast<std::size_t>(MemoryCategory::parameters)];
    CHECK(parameters_there > fixed);
    CHECK(parameters_there <= fixed + gathers.whole_again);
  }
}

TEST_CASE("categories and gaps sum to the memory of a rank") {
  for (const std::int64_t stage : {0, 1, 2, 3})
    for (const std::string split : {"2", "{ring: 2}", "{gather_kv: 2}"})
      for (const std::int64_t micro_batches : {1, 3}) {
        const Run run =
            compiled(small_qwen3(), {.split = split, .data = 2, .zero_stage = stage, .micro_batches = micro_batches});
        const MemoryPeak peak = memory_peak(run.model);
        std::int64_t sum = peak.gaps;
        for (const std::int64_t bytes : peak.bytes) {
          CHECK(bytes >= 0);
          sum += bytes;
        }
        INFO(split << " zero " << stage << "\n" << memory_table(run.model));
        CHECK(sum == run.model.arena_bytes);
        CHECK(peak.op >= 0);
        CHECK(memory_table(run.model).find(fmt::format("at instruction {} (", peak.op)) != std::string::npos);
        for (const MemoryCategory category : {MemoryCategory::parameters, MemoryCategory::gradients,
                                              MemoryCategory::optimizer, MemoryCategory::saved_activations})
          CHECK(peak.bytes[static_cast<std::size_t>(category)] > 0);
      }
}
