// rms_norm, layer_norm and their gradients.
#include "kernels/cpu/layer_norm.h"
#include "kernels/cpu/rms_norm.h"
#include "kernels/cpu/thread_pool.h"
#include "runtime/cpu/bind.h"

namespace longhaul {
namespace {

template <bool fast>
bool make_rms_norm(const CpuProblem& problem, CpuKernel& kernel, std::string&) {
  cpu::RmsNorm norm{};
  norm.type = problem.results[0].dtype;
  norm.weight_type = problem.operands[1].dtype;
  norm.d = bind::last(problem.operands[0]);
  norm.rows = bind::rows(problem.operands[0]);
  norm.epsilon = problem.op.attributes.number("epsilon");
  kernel.run = [norm](const CpuCall& call) {
    cpu::RmsNorm one = norm;
    one.x = call.operands[0];
    one.weight = call.operands[1];
    one.y = call.results[0];
    if constexpr (fast)
      cpu::rms_norm(call.context.pool(), one);
    else
      cpu::reference::rms_norm(one);
  };
  return true;
}

template <bool fast>
bool make_rms_norm_gradient(const CpuProblem& problem, CpuKernel& kernel, std::string&) {
  cpu::RmsNormGradient norm{};
  norm.type = problem.results[0].dtype;
  norm.weight_type = problem.operands[1].dtype;
  norm.dweight_type = problem.results[1].dtype;
  norm.d = bind::last(problem.operands[0]);
  norm.rows = bind::rows(problem.operands[0]);
  norm.epsilon = problem.op.attributes.number("epsilon");
  if (fast) kernel.scratch_bytes = cpu::rms_norm_gradient_scratch_bytes(norm.type, norm.rows, norm.d);
  kernel.run = [norm](const CpuCall& call) {
    cpu::RmsNormGradient one = norm;
    one.x = call.operands[0];
    one.weight = call.operands[1];
    one.dy = call.operands[2];
    one.dx = call.results[0];
    one.dweight = call.results[1];
    one.scratch = call.scratch;
    if constexpr (fast)
      cpu::rms_norm_gradient(call.context.pool(), one);
    else
      cpu::reference::rms_norm_gradient(one);
  };
  return true;
}

template <bool fast>
bool make_layer_norm(const CpuProblem& problem, CpuKernel& kernel, std::string&) {
  cpu::LayerNorm norm{};
  norm.type = problem.results[0].dtype;
  norm.weight_type = problem.operands[1].dtype;
  norm.d = bind::last(problem.operands[0]);
  norm.rows = bind::rows(problem.operands[0]);
  norm.epsilon = problem.op.attributes.number("epsilon");
  kernel.run = [norm](const CpuCall& call) {
    cpu::LayerNorm one = norm;
    one.x = call.operands[0];
    one.weight = call.operands[1];
    one.bias = call.operands[2];
    one.y = call.results[0];
    if constexpr (fast)
      cpu::layer_norm(call.context.pool(), one);
    else
      cpu::reference::layer_norm(one);
  };
  return true;
}

template <bool fast>
bool make_layer_norm_gradient(const CpuProblem& problem, CpuKernel& kernel, std::string&) {
  cpu::LayerNormGradient norm{};
  norm.type = problem.results[0].dtype;
  norm.weight_type = problem.operands[1].dtype;
  norm.dweight_type = problem.results[1].dtype;
  norm.d = bind::last(problem.operands[0]);
  norm.rows = bind::rows(problem.operands[0]);
  norm.epsilon = problem.op.attributes.number("epsilon");
  if (fast) kernel.scratch_bytes = cpu::layer_norm_gradient_scratch_bytes(norm.type, norm.rows, norm.d);
  kernel.run = [norm](const CpuCall& call) {
    cpu::LayerNormGradient one = norm;
    one.x = call.operands[0];
    one.weight = call.operands[1];
    one.dy = call.operands[2];
    one.dx = call.results[0];
    one.dweight = call.results[1];
    one.dbias = call.results[2];
    one.scratch = call.scratch;
    if constexpr (fast)
      cpu::layer_norm_gradient(call.context.pool(), one);
    else
      cpu::reference::layer_norm_gradient(one);
  };
  return true;
}

const CpuKernels rms("rms_norm", bind::fast_and_reference(make_rms_norm<true>, make_rms_norm<false>));
const CpuKernels rms_gradient("rms_norm_gradient",
                              bind::fast_and_reference(make_rms_norm_gradient<true>, make_rms_norm_gradient<false>));
const CpuKernels layer("layer_norm", bind::fast_and_reference(make_layer_norm<true>, make_layer_norm<false>));
const CpuKernels layer_gradient("layer_norm_gradient", bind::fast_and_reference(make_layer_norm_gradient<true>,
                                                                                make_layer_norm_gradient<false>));

}  // namespace
}  // namespace longhaul
