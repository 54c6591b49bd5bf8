// offload and reload, between the device's memory and pinned memory of the host. Both queues are the rank's stream: a
// copy begins where its start stands, and what comes later, its wait included, comes after it.
#include "runtime/device/bind.h"

namespace longhaul {
namespace {

bool make_start(const DeviceProblem& problem, DeviceKernel& kernel, std::string&) {
  kernel.run = [bytes = static_cast<std::size_t>(problem.operands[0].bytes())](const DeviceCall& call) {
    if (bytes > 0)
      call.context.succeed(call.context.api().copy(call.results[0], call.operands[0], bytes, call.context.stream()));
  };
  return true;
}

bool make_wait(const DeviceProblem& problem, DeviceKernel& kernel, std::string&) {
  kernel.run = [bytes = static_cast<std::size_t>(problem.operands[0].bytes())](const DeviceCall& call) {
    if (bytes > 0 && call.results[0] != call.operands[0])
      call.context.succeed(call.context.api().copy(call.results[0], call.operands[0], bytes, call.context.stream()));
  };
  return true;
}

const DeviceKernels offload_start("offload.start", bind::generic(make_start));
const DeviceKernels offload_wait("offload.wait", bind::generic(make_wait));
const DeviceKernels reload_start("reload.start", bind::generic(make_start));
const DeviceKernels reload_wait("reload.wait", bind::generic(make_wait));

}  // namespace
}  // namespace longhaul
