#include "passes/options.h"

namespace longhaul {

StatePlacement state_placement(int zero_stage) {
  return {.moments = zero_stage >= 1,
          .gradients = zero_stage >= 1,
          .accumulators = zero_stage >= 2,
          .parameters = zero_stage >= 3};
}

StateAxes state_axes(const Mesh& mesh, const Placement& placement) {
  const AxisSet copies = mesh.axes(placement.replica_axes).set();
  return {mesh.live().without(copies), mesh.live().only(copies)};
}

}  // namespace longhaul
