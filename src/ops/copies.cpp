// Copies between the device's memory and its host's, as pairs (Half in ir/op_definition.h): `offload` moves a value out
// to the host, `reload` brings it back. Each direction is a queue of its own, so that neither waits for the other.
//   h0 = offload.start(x);  h = offload.wait(h0, x)     h0 and h in host memory
//   y0 = reload.start(h);   y = reload.wait(y0, h)
#include "ir/builder.h"

namespace longhaul {
namespace {

std::vector<DType> types(const Graph& graph, const Op& op) {
  return {graph[op.operands[0]].dtype};  // indices too
}
double no_flops(const Graph&, const Op&, const Mesh&) {
  return 0;
}

// Of the device's memory, as far as its ops wait for it: copies run beside them.
double nothing_moved(const Graph&, const Op&) {
  return 0;
}

OpDefinition copy(const char* name, Half half, const char* queue, Space from, Space to) {
  return {.name = name,
          .signature = half == Half::start ? "*->*" : "*,*->*",
          .pointwise = true,
          .linear = true,
          .half = half,
          .queue = queue,
          .from = from,
          .to = to,
          .result_types = types,
          .flops = no_flops,
          .moved = nothing_moved};
}

const OpRegistration offload_start(copy("offload.start", Half::start, "out", Space::device, Space::host));
const OpRegistration offload_wait(copy("offload.wait", Half::wait, "out", Space::device, Space::host));
const OpRegistration reload_start(copy("reload.start", Half::start, "in", Space::host, Space::device));
const OpRegistration reload_wait(copy("reload.wait", Half::wait, "in", Space::host, Space::device));

}  // namespace
}  // namespace longhaul
