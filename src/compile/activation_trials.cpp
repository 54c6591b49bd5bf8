#include "compile/activation_trials.h"

#include <algorithm>

#include "passes/offload.h"

namespace longhaul {
namespace {

int place_of(void (*pass)(Graph&, const PassContext&)) {
  int i = 0;
  while (pipeline()[static_cast<std::size_t>(i)].run != pass) ++i;
  return i;
}
int first_choice() {
  return place_of(passes::recompute);
}
int all_passes() {
  return static_cast<int>(pipeline().size());
}

// Nothing is verified here, as if a hook had changed it: what is chosen is compiled as every program is.
void run_unverified(Graph& graph, const PassContext& context, int begin, int end) {
  run_passes(graph, context, begin, end, nullptr, [](const Pass&, Graph&, const PassContext&) { return true; });
}

}  // namespace

ActivationTrials::ActivationTrials(CompileRequest request) : request_(std::move(request)) {
  std::vector<Graph> others, first;
  for (const ProgramKind kind : request_.kinds) {
    Graph graph = initial_graph(request_, kind);
    const PassContext context{request_.options, kind};
    if (is_accumulate(kind)) {
      run_passes(graph, context, 0, first_choice());
      chosen_.push_back({kind, std::move(graph)});
      first.push_back(finished(chosen_.back(), request_.options));
    } else {
      run_passes(graph, context, 0, static_cast<int>(pipeline().size()));
      others.push_back(std::move(graph));
    }
  }
  std::vector<const Graph*> all;
  for (const auto* graphs : {&first, &others})
    for (const Graph& graph : *graphs) all.push_back(&graph);
  named_ = plan_named_buffers(all);
  for (const Graph& graph : others)
    others_ = std::max(others_, plan_memory(graph, named_, request_.scratch).transient_bytes);
  if (!chosen_.empty()) menus_ = recompute_menus(chosen_[0].graph, request_.options.schedule);
}

Graph ActivationTrials::finished(const Program& program, const CompileOptions& options, int end) const {
  Graph graph = program.graph;
  run_unverified(graph, {options, program.kind}, first_choice(), end);
  return graph;
}

Graph ActivationTrials::finished(const Program& program, const CompileOptions& options) const {
  return finished(program, options, all_passes());
}

CompileOptions ActivationTrials::options(const std::vector<int>& steps, bool tiles) const {
  CompileOptions options = request_.options;
  options.schedule.recompute_steps = steps;
  options.schedule.tile_mlp = tiles;
  return options;
}

std::int64_t ActivationTrials::arena_bytes(const std::vector<int>& steps, bool tiles) const {
  std::int64_t most = others_;
  for (const Program& program : chosen_)
    most =
        std::max(most, plan_memory(finished(program, options(steps, tiles)), named_, request_.scratch).transient_bytes);
  return named_.bytes + most;
}

ActivationTrials::Memory ActivationTrials::memory(const std::vector<int>& steps, bool tiles,
                                                  std::int64_t offload_values, std::int64_t host_limit) const {
  CompileOptions chosen = options(steps, tiles);
  const int offload = place_of(passes::offload);
  std::vector<Graph> graphs;
  Memory memory{0, 0, offload_values};
  for (const Program& program : chosen_) {
    graphs.push_back(finished(program, chosen, offload));
    std::int64_t count = 0, bytes = 0;
    for (const OffloadCandidate& one : offload_candidates(graphs.back())) {
      bytes += one.bytes;
      if (bytes > host_limit || count == memory.offload_values) break;
      ++count;
    }
    memory.offload_values = count;
  }
  chosen.schedule.offload_values = memory.offload_values;
  std::int64_t most = others_;
  for (std::size_t i = 0; i < graphs.size(); ++i) {
    run_unverified(graphs[i], {chosen, chosen_[i].kind}, offload, all_passes());
    const MemoryPlan plan = plan_memory(graphs[i], named_, request_.scratch);
    most = std::max(most, plan.transient_bytes);
    memory.host_bytes = std::max(memory.host_bytes, plan.host.transient_bytes);
  }
  memory.arena_bytes = named_.bytes + most;
  return memory;
}

MemoryBounds ActivationTrials::arena_bounds(const std::vector<int>& steps, bool tiles) const {
  MemoryBounds all{others_, others_};
  for (const Program& program : chosen_) {
    const MemoryBounds one = memory_bounds(finished(program, options(steps, tiles)), named_, request_.scratch);
    all = {std::max(all.least, one.least), std::max(all.most, one.most)};
  }
  return {named_.bytes + all.least, named_.bytes + all.most};
}

}  // namespace longhaul
