#include "compile/activation_trials.h"

#include <algorithm>

namespace longhaul {
namespace {

int first_choice() {
  int i = 0;
  while (pipeline()[static_cast<std::size_t>(i)].run != passes::recompute) ++i;
  return i;
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

Graph ActivationTrials::finished(const Program& program, const CompileOptions& options) const {
  Graph graph = program.graph;
  // As if a hook had changed it: nothing is verified here. What is chosen is compiled as every program is.
  run_passes(graph, {options, program.kind}, first_choice(), static_cast<int>(pipeline().size()), nullptr,
             [](const Pass&, Graph&, const PassContext&) { return true; });
  return graph;
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

MemoryBounds ActivationTrials::arena_bounds(const std::vector<int>& steps, bool tiles) const {
  MemoryBounds all{others_, others_};
  for (const Program& program : chosen_) {
    const MemoryBounds one = memory_bounds(finished(program, options(steps, tiles)), named_, request_.scratch);
    all = {std::max(all.least, one.least), std::max(all.most, one.most)};
  }
  return {named_.bytes + all.least, named_.bytes + all.most};
}

}  // namespace longhaul
