#include "runtime/device/program_graph.h"

#include <utility>

#include "base/error.h"
#include "base/log.h"

namespace longhaul {
namespace {

Traffic since(const Traffic& before, Traffic now) {
  for (std::size_t k = 0; k < now.rows.size(); ++k) {
    now.rows[k].calls -= before.rows[k].calls;
    now.rows[k].bytes_sent -= before.rows[k].bytes_sent;
  }
  return now;
}

}  // namespace

ProgramGraph::ProgramGraph(DeviceContext& context, CollectiveWatch* watch, std::string_view program,
                           std::size_t collectives, std::vector<int> ranks, TableSpace& tables)
    : context_(context), watch_(watch), place_{program, "graph", 0, std::move(ranks)} {
  if (watch && collectives > 0) track_ = std::make_unique<CollectiveTrack>(context, tables, collectives);
}

void ProgramGraph::run(const std::function<void()>& plainly, std::span<DataPlane* const> planes, Activity& activity) {
  if (!std::exchange(has_run_, true)) return plainly();
  if (graph_)
    for (const auto& [plane, traffic] : traffic_) plane->add(traffic);
  else
    capture(plainly, planes);
  activity.enter(&place_);
  launch();
  activity.enter(nullptr);
}

void ProgramGraph::capture(const std::function<void()>& plainly, std::span<DataPlane* const> planes) {
  for (DataPlane* const plane : planes) traffic_.emplace_back(plane, plane->traffic());
  const cuda::Api& api = context_.api();
  const std::int64_t free_before = context_.device().free_bytes();
  context_.succeed(api.graph_begin(context_.stream()));
  capturing_ = true;
  try {
    if (track_) watch_->begin_graph(*track_);
    plainly();
  } catch (...) {
    if (track_) watch_->end_graph();
    drop();
    throw;
  }
  if (track_) watch_->end_graph();
  capturing_ = false;
  if (api.graph_end(context_.stream(), &graph_) != 0)
    throw Error(fmt::format("{} device {} makes no graph of program {}: {}. Set device.graphs to false",
                            context_.device().kind(), context_.device().number(), place_.program, api.last_error()));
  for (auto& [plane, traffic] : traffic_) traffic = since(traffic, plane->traffic());
  log_debug("program {} is a graph, which takes {} bytes of this device besides the plan", place_.program,
            free_before - context_.device().free_bytes());
}

void ProgramGraph::launch() {
  const cuda::Api& api = context_.api();
  const auto all = [&] {
    if (api.graph_launch(graph_, context_.stream()) != 0)
      throw Error(fmt::format("program {}, launched as a graph: {} device {}: {}", place_.program,
                              context_.device().kind(), context_.device().number(), api.last_error()));
  };
  if (track_)
    watch_->launch(*track_, all);
  else
    all();
}

void ProgramGraph::drop() noexcept {
  const cuda::Api& api = context_.api();
  void* graph = std::exchange(graph_, nullptr);
  if (!capturing_ && !graph) return;
  if (api.device_select(context_.device().number()) != 0) return;
  if (std::exchange(capturing_, false)) (void)api.graph_end(context_.stream(), &graph);
  if (graph) (void)api.graph_destroy(graph);
}

}  // namespace longhaul
