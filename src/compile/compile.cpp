#include "compile/compile.h"

#include <algorithm>
#include <array>
#include <fstream>
#include <map>
#include <numeric>
#include <optional>
#include <set>

#include "base/error.h"
#include "ir/op_definition.h"
#include "model/graph.h"
#include "passes/plan_memory.h"

namespace longhaul {
namespace {

void write_text(const std::filesystem::path& file, const std::string& text) {
  std::ofstream stream(file);
  stream << text;
  stream.close();
  if (!stream) fail("cannot write {}", file.string());
}

std::string human(std::int64_t bytes) {
  static constexpr const char* units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  int unit = 0;
  while (value >= 1024 && unit < 4) {
    value /= 1024;
    ++unit;
  }
  return unit ? fmt::format("{:.2f} {}", value, units[unit]) : fmt::format("{} B", bytes);
}

}  // namespace

const Program& CompiledModel::program(ProgramKind kind) const {
  return *programs[index(kind)];
}

std::size_t CompiledModel::index(ProgramKind kind) const {
  const auto at = std::find(kinds.begin(), kinds.end(), kind);
  LONGHAUL_CHECK(at != kinds.end(), "program {} was not compiled", name_of(kind));
  return static_cast<std::size_t>(at - kinds.begin());
}

std::vector<const Program*> CompiledModel::all() const {
  std::vector<const Program*> list;
  for (const auto& program : programs) list.push_back(program.get());
  return list;
}

std::vector<ProgramKind> step_kinds(std::int64_t accumulation_steps, bool evaluates) {
  std::vector<ProgramKind> kinds{ProgramKind::count};
  if (accumulation_steps == 1)
    kinds.push_back(ProgramKind::accumulate_only);
  else {
    kinds.push_back(ProgramKind::accumulate_first);
    if (accumulation_steps > 2) kinds.push_back(ProgramKind::accumulate_middle);
    kinds.push_back(ProgramKind::accumulate_last);
  }
  kinds.push_back(ProgramKind::update);
  if (evaluates) kinds.push_back(ProgramKind::evaluate);
  return kinds;
}

ProgramKind accumulate_kind(std::int64_t i, std::int64_t n) {
  if (n == 1) return ProgramKind::accumulate_only;
  return i == 0       ? ProgramKind::accumulate_first
         : i == n - 1 ? ProgramKind::accumulate_last
                      : ProgramKind::accumulate_middle;
}

Graph initial_graph(const CompileRequest& request, ProgramKind kind) {
  Graph graph = kind == ProgramKind::update
                    ? parameter_graph(request.spec, request.mesh)
                    : forward_graph(request.spec, request.batch, request.sequence, request.mesh);
  graph.name = name_of(kind);
  return graph;
}

Graph specification(const CompileRequest& request, ProgramKind kind) {
  Graph graph = initial_graph(request, kind);
  run_passes(graph, {request.options, kind}, 0, specification_passes());
  return graph;
}

std::vector<RecomputeMenu> activation_menus(const CompileRequest& request) {
  const auto kind = std::find_if(request.kinds.begin(), request.kinds.end(), is_accumulate);
  if (kind == request.kinds.end()) return {};
  int end = 0;
  while (pipeline()[static_cast<std::size_t>(end)].run != passes::recompute) ++end;
  Graph graph = initial_graph(request, *kind);
  run_passes(graph, {request.options, *kind}, 0, end);
  return recompute_menus(graph, request.options.schedule);
}

namespace {

// Schedule::overlap_memory of a program so that its plan is within that and the request's limit; 0: its collectives
// take turns. What they need in flight besides values, and the gaps between buffers, are known when it is planned: what
// was too much is taken back. `plan` becomes that of the program then, where there is a limit and something fits.
std::int64_t overlap_within(const CompileRequest& request, const NamedBuffers& named, const Graph& graph,
                            std::size_t program, std::span<const std::int64_t> live, std::optional<MemoryPlan>& plan) {
  const std::int64_t asked = request.options.schedule.overlap_memory;
  const std::int64_t room = std::min(asked, request.memory_limit ? request.memory_limit - named.bytes : any_memory);
  if (room == any_memory) return any_memory;
  CompileOptions options = request.options;
  std::int64_t& allowed = options.schedule.overlap_memory;
  // What leaves an eighth or less has no room for everything; each try is as long as a compilation.
  if (!live.empty() && *std::max_element(live.begin(), live.end()) > room / 8 * 7) allowed = std::min(allowed, room);
  for (int tries = 0; tries < 6; ++tries) {
    Graph tried = graph;
    passes::overlap(tried, {options, request.kinds[program], live});
    plan = plan_memory(tried, named, request.scratch);
    const std::int64_t over = plan->transient_bytes - room;
    if (over <= 0) return allowed;
    allowed = std::min(allowed, room) - over;
    if (allowed <= 0) break;
  }
  plan.reset();
  return 0;
}

}  // namespace

CompiledModel compile_model(const CompileRequest& request, const CompileHooks& hooks) {
  LONGHAUL_CHECK(request.scratch, "memory is planned for a target");
  CompiledModel model;
  model.kinds = request.kinds;
  if (!request.dump.empty()) std::filesystem::create_directories(request.dump);
  const int all = static_cast<int>(pipeline().size()), overlaps = request.options.schedule.overlap_memory > 0;
  std::vector<char> changed;  // by a hook: what follows is not verified
  const auto run = [&](Graph& graph, const CompileOptions& options, std::size_t i, int begin, int end,
                       std::span<const std::int64_t> live) {
    const ProgramKind kind = request.kinds[i];
    int number = begin > 0 ? begin + 1 : 0;
    PassObserver observer;
    if (!request.dump.empty())
      observer = [&](const Pass* pass, const Graph& stage) {
        write_text(request.dump / fmt::format("{}.{:02}.{}.ir", name_of(kind), number++, pass ? pass->name : "model"),
                   print(stage));
      };
    PassHook after = [&](const Pass& pass, Graph& stage, const PassContext& context) {
      changed[i] |= hooks.after_pass && hooks.after_pass(pass, stage, context);
      return changed[i] != 0;
    };
    run_passes(graph, {options, kind, live}, begin, end, observer, after);
  };
  for (std::size_t i = 0; i < request.kinds.size(); ++i) {
    auto program = std::make_unique<Program>();
    program->graph = initial_graph(request, request.kinds[i]);
    changed.push_back(0);
    run(program->graph, request.options, i, 0, all - overlaps, {});
    model.programs.push_back(std::move(program));
  }
  std::vector<const Graph*> graphs;
  for (const auto& program : model.programs) graphs.push_back(&program->graph);
  model.named = plan_named_buffers(graphs);
  model.arena_bytes = model.named.bytes;
  for (std::size_t i = 0; i < model.programs.size(); ++i) {
    auto& program = model.programs[i];
    std::optional<MemoryPlan> plan;
    if (overlaps && !changed[i]) {
      if (request.before_overlap) request.before_overlap(program->graph);
      const MemoryPlan turns = plan_memory(program->graph, model.named, request.scratch);
      model.turns_arena_bytes = std::max(model.turns_arena_bytes, model.named.bytes + turns.transient_bytes);
      std::vector<std::int64_t> live;
      for (const auto& bytes : turns.live_by_op)
        live.push_back(std::accumulate(bytes.begin(), bytes.end(), std::int64_t{0}));
      CompileOptions options = request.options;
      options.schedule.overlap_memory = overlap_within(request, model.named, program->graph, i, live, plan);
      run(program->graph, options, i, all - 1, all, live);
      model.overlap_memory.push_back(options.schedule.overlap_memory);
    }
    program->plan = plan && !changed[i] ? std::move(*plan) : plan_memory(program->graph, model.named, request.scratch);
    if (hooks.after_plan) hooks.after_plan(*program, model.named);
    model.arena_bytes = std::max(model.arena_bytes, model.named.bytes + program->plan.transient_bytes);
    model.host_bytes = std::max(model.host_bytes, program->plan.host.transient_bytes);
  }
  if (request.memory_limit && model.arena_bytes > request.memory_limit)
    fail(
        "a rank needs {} bytes ({}), device.memory (auto: that of device.profile) allows {} ({}): lower "
        "training.micro_batch_size or "
        "training.seq_len, "
        "use more ranks, shard more of the state over them (docs/parallelism.md), let parallelism.keep_gathered be "
        "never, make more again (activation_memory.mode), or raise device.memory\n{}",
        model.arena_bytes, human(model.arena_bytes), request.memory_limit, human(request.memory_limit),
        memory_table(model));
  if (request.host_limit && model.host_bytes > request.host_limit)
    fail(
        "a rank needs {} bytes ({}) of host memory, {} ({}) are its own: lower training.micro_batch_size or "
        "training.seq_len, use more ranks, move less there (activation_memory.offload) or make more again "
        "(activation_memory.mode), or set device.host_memory to the GiB that a rank may have\n{}",
        model.host_bytes, human(model.host_bytes), request.host_limit, human(request.host_limit), memory_table(model));
  if (!request.dump.empty()) {
    for (const auto& program : model.programs)
      write_text(request.dump / fmt::format("{}.program", program->graph.name), print(*program));
    write_text(request.dump / "memory.txt", memory_table(model) + "\n" + traffic_table(model, 0));
  }
  return model;
}

MemoryPeak memory_peak(const CompiledModel& model) {
  MemoryPeak peak;
  for (std::size_t i = 0; i < model.programs.size(); ++i)
    if (model.programs[i]->plan.transient_bytes > model.programs[peak.program]->plan.transient_bytes) peak.program = i;
  const MemoryPlan& plan = model.programs[peak.program]->plan;
  peak.op = plan.peak_op;
  peak.bytes = plan.peak_by_category;
  peak.gaps = plan.transient_bytes - plan.peak_live_bytes;
  std::set<std::int64_t> counted;  // a gradient and its accumulator may be one buffer
  for (const auto& [name, slot] : model.named.slots)
    if (counted.insert(slot.offset).second) peak.bytes[static_cast<std::size_t>(slot.category)] += slot.bytes;
  return peak;
}

std::string memory_table(const CompiledModel& model) {
  const auto place_in = [](const Program& program, const ArenaPlan& plan) {
    if (plan.peak_op < 0) return std::string("before its first instruction");
    const Op& op = program.graph.ops[static_cast<std::size_t>(plan.peak_op)];
    return fmt::format("at instruction {} ({}{})", plan.peak_op, op.definition->name,
                       op.layer >= 0 ? fmt::format(" of layer {}", op.layer) : "");
  };
  const auto place = [&](const Program& program) { return place_in(program, program.plan); };
  const auto rows = [](const std::array<std::int64_t, memory_categories>& bytes) {
    std::string text;
    for (int k = 0; k < memory_categories; ++k)
      if (const auto amount = bytes[static_cast<std::size_t>(k)])
        text += fmt::format("    {:20} {:>16}\n", name_of(static_cast<MemoryCategory>(k)), amount);
    return text;
  };
  const MemoryPeak peak = memory_peak(model);
  std::string text = fmt::format("memory of a rank: {} bytes ({})\n", model.arena_bytes, human(model.arena_bytes));
  text += fmt::format("  at the peak, {} {}\n{}", model.programs[peak.program]->graph.name,
                      place(*model.programs[peak.program]), rows(peak.bytes));
  if (peak.gaps) text += fmt::format("    {:20} {:>16}\n", "gaps between buffers", peak.gaps);
  text += fmt::format("  kept between programs: {} bytes; besides, at the peak of each program:\n", model.named.bytes);
  for (const auto& program : model.programs)
    text += fmt::format("  {}: {} bytes, {} of them live {}\n{}", program->graph.name, program->plan.transient_bytes,
                        program->plan.peak_live_bytes, place(*program), rows(program->plan.peak_by_category));
  std::vector<std::pair<std::int64_t, std::string>> largest;
  std::set<std::int64_t> counted;
  for (const auto& [name, slot] : model.named.slots)
    if (counted.insert(slot.offset).second) largest.push_back({slot.bytes, name});
  std::sort(largest.rbegin(), largest.rend());
  text += "  largest buffers kept:\n";
  for (std::size_t i = 0; i < std::min<std::size_t>(5, largest.size()); ++i)
    text += fmt::format("    {:>16}  {}\n", largest[i].first, largest[i].second);
  if (model.host_bytes == 0) return text;
  text += fmt::format("host memory of a rank: {} bytes ({})\n", model.host_bytes, human(model.host_bytes));
  for (const auto& program : model.programs)
    if (const ArenaPlan& host = program->plan.host; host.transient_bytes > 0)
      text += fmt::format("  {}: {} bytes, {} of them live {}\n{}", program->graph.name, host.transient_bytes,
                          host.peak_live_bytes, place_in(*program, host), rows(host.peak_by_category));
  return text;
}

std::string activation_table(const CompiledModel& model) {
  struct Group {
    int count = 0;
    std::int64_t bytes = 0;
  };
  struct Layer {
    std::map<std::string, Group> kept, moved, again;  // by op
    bool operator==(const Layer& other) const {
      const auto same = [](const auto& a, const auto& b) {
        return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const auto& x, const auto& y) {
          return x.first == y.first && x.second.count == y.second.count && x.second.bytes == y.second.bytes;
        });
      };
      return same(kept, other.kept) && same(moved, other.moved) && same(again, other.again) && chunks == other.chunks;
    }
    std::array<int, 2> chunks{};  // of attention's heads: how often attention runs forward, and its gradient
  };
  const auto program = std::find_if(model.kinds.begin(), model.kinds.end(), is_accumulate);
  if (program == model.kinds.end()) return "";
  const Graph& graph = model.program(*program).graph;
  const auto use = uses(graph);
  const auto maker = definitions(graph);
  std::map<std::int32_t, Layer> layers;
  for (const Op& op : graph.ops) {
    if (op.layer < 0) continue;
    if (op.is("attention") && op.phase == Phase::forward) ++layers[op.layer].chunks[0];
    if (op.is("attention_gradient") || op.is("attention_gradient_add")) ++layers[op.layer].chunks[1];
    std::map<std::string, std::map<std::string, Group>> made;  // by pass
    for (const ValueId result : op.results) {
      const auto& users = use[static_cast<std::size_t>(result)];
      const bool saved = op.phase == Phase::forward && std::any_of(users.begin(), users.end(), [&](std::int32_t user) {
                           return graph.ops[static_cast<std::size_t>(user)].phase == Phase::backward;
                         });
      const bool moves = op.definition->half == Half::wait && op.definition->to == Space::host;
      if (op.definition->half == Half::start ||
          (op.definition->half == Half::wait && !moves && !op.definition->communication))
        continue;
      auto& waits = moves ? layers[op.layer].moved : layers[op.layer].kept;
      const Op& made_by =
          moves ? graph.ops[static_cast<std::size_t>(maker[static_cast<std::size_t>(op.operands[1])])] : op;
      for (Group* group : {saved ? &waits[std::string(pair_name(made_by))] : nullptr,
                           op.phase == Phase::backward ? &made[op.made_by][std::string(pair_name(op))] : nullptr}) {
        if (!group) continue;
        ++group->count;
        group->bytes += local_bytes(graph, result);
      }
    }
    for (const auto& [name, group] : made["recompute"]) {
      Group& sum = layers[op.layer].again[name];
      sum.count += group.count;
      sum.bytes += group.bytes;
    }
  }
  std::string text = fmt::format("activations of a rank between forward and backward pass, {}\n", name_of(*program));
  const auto rows = [](const std::map<std::string, Group>& groups, std::string_view what) {
    std::int64_t sum = 0;
    for (const auto& [name, group] : groups) sum += group.bytes;
    std::string list;
    for (const auto& [name, group] : groups)
      list += fmt::format("    {:24} {:>3} {:>16}\n", name, group.count, group.bytes);
    return groups.empty() ? "" : fmt::format("   {} {} bytes\n{}", what, sum, list);
  };
  for (auto first = layers.begin(); first != layers.end();) {
    auto last = first;
    while (std::next(last) != layers.end() && std::next(last)->first == last->first + 1 &&
           std::next(last)->second == first->second)
      ++last;
    text += first == last ? fmt::format("  layer {}\n", first->first)
                          : fmt::format("  layers {} to {}, each\n", first->first, last->first);
    text += rows(first->second.kept, "kept:") + rows(first->second.moved, "moved to host memory:") +
            rows(first->second.again, "made again:");
    if (const auto& [forward, backward] = first->second.chunks; forward > 1 || backward > 1)
      text += fmt::format("   attention in chunks of heads: {} forward, {} backward\n", forward, backward);
    first = std::next(last);
  }
  return text;
}

std::string traffic_table(const CompiledModel& model, int rank) {
  std::string text = fmt::format("sent by rank {} in one run of each program\n  {:18} {:15} {:18} {:14} {:>7} {:>16}\n",
                                 rank, "program", "collective", "made by", "group", "calls", "bytes");
  for (const auto& program : model.programs)
    for (const TrafficRow& row : predicted_traffic(program->graph.name, *program, rank))
      text += fmt::format("  {:18} {:15} {:18} {:14} {:>7} {:>16}\n", row.program, row.collective, row.made_by,
                          row.group, row.calls, row.bytes_sent);
  return text;
}

}  // namespace longhaul
