// offload and reload: a start gives the copy to the rank's copying thread, a wait waits for the oldest of its queue,
// which is its own (the verifier sees to it).
#include <cstring>

#include "runtime/cpu/bind.h"
#include "runtime/cpu/copy_thread.h"

namespace longhaul {
namespace {

bool make_start(const CpuProblem& problem, CpuKernel& kernel, std::string&) {
  const std::size_t queue = CopyThread::queue(problem.op.definition->queue);
  kernel.run = [queue, bytes = static_cast<std::size_t>(problem.operands[0].bytes())](const CpuCall& call) {
    call.context.copies().start(queue, call.results[0], call.operands[0], bytes);
  };
  return true;
}

bool make_wait(const CpuProblem& problem, CpuKernel& kernel, std::string&) {
  const std::size_t queue = CopyThread::queue(problem.op.definition->queue);
  kernel.run = [queue, bytes = static_cast<std::size_t>(problem.operands[0].bytes())](const CpuCall& call) {
    call.context.copies().wait(queue);
    if (call.results[0] != call.operands[0] && bytes > 0) std::memcpy(call.results[0], call.operands[0], bytes);
  };
  return true;
}

const CpuKernels offload_start("offload.start", bind::only(make_start));
const CpuKernels offload_wait("offload.wait", bind::only(make_wait));
const CpuKernels reload_start("reload.start", bind::only(make_start));
const CpuKernels reload_wait("reload.wait", bind::only(make_wait));

}  // namespace
}  // namespace longhaul
