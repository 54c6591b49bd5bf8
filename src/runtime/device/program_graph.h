// One program as a graph of the device (device.graphs). It runs once as it is, so that libraries have chosen, connected
// and loaded what they need; when it runs again what it gives its streams is captured, and from then on one launch is
// all that the host does for it. Whatever changes from run to run must lie in the device's memory.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "runtime/activity.h"
#include "runtime/device/collective_watch.h"
#include "runtime/device/data_plane.h"

namespace longhaul {

class ProgramGraph {
 public:
  /// `collectives`: those that the program gives to the device, `ranks` those that take part; null watch: none. All
  /// must outlive it.
  ProgramGraph(DeviceContext& context, CollectiveWatch* watch, std::string_view program, std::size_t collectives,
               std::vector<int> ranks, TableSpace& tables);
  ~ProgramGraph() { drop(); }
  ProgramGraph(const ProgramGraph&) = delete;

  /// `plainly` gives the device every instruction, in order; the context's stream comes to wait for all that others are
  /// given. What `planes` move counts among their traffic every time. Throws Error in the device's words.
  void run(const std::function<void()>& plainly, std::span<DataPlane* const> planes, Activity& activity);
  bool has_collectives() const { return track_ != nullptr; }
  /// While it is, nothing may be asked of the device.
  bool is_capturing() const { return capturing_; }
  /// Ends a capture and gives the graph back; what has been launched still ends. Communicators of NCCL do not end
  /// before.
  void drop() noexcept;

 private:
  void capture(const std::function<void()>& plainly, std::span<DataPlane* const> planes);
  void launch();

  DeviceContext& context_;
  CollectiveWatch* const watch_;
  const Activity::Place place_;
  std::unique_ptr<CollectiveTrack> track_;
  bool has_run_ = false, capturing_ = false;
  void* graph_ = nullptr;
  std::vector<std::pair<DataPlane*, Traffic>> traffic_;  // of one launch
};

}  // namespace longhaul
