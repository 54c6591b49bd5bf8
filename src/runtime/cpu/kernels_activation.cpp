// activation, gated_activation and their gradients.
#include "kernels/cpu/activation.h"

#include "kernels/cpu/thread_pool.h"
#include "runtime/cpu/bind.h"

namespace longhaul {
namespace {

bool kind_of(const CpuProblem& problem, cpu::ActivationKind& kind, std::string& refusal) {
  const std::string name = problem.op.attributes.text("kind");
  if (name == "silu")
    kind = cpu::ActivationKind::silu;
  else if (name == "gelu")
    kind = cpu::ActivationKind::gelu;
  else if (name == "gelu_tanh")
    kind = cpu::ActivationKind::gelu_tanh;
  else if (name == "relu")
    kind = cpu::ActivationKind::relu;
  else {
    refusal = "no activation '" + name + "'";
    return false;
  }
  return true;
}

template <bool fast>
bool make_activation(const CpuProblem& problem, CpuKernel& kernel, std::string& refusal) {
  cpu::Activation activation{cpu::ActivationKind::silu, problem.results[0].dtype, nullptr, nullptr,
                             problem.results[0].count()};
  if (!kind_of(problem, activation.kind, refusal)) return false;
  kernel.run = [activation](const CpuCall& call) {
    cpu::Activation one = activation;
    one.x = call.operands[0];
    one.y = call.results[0];
    if constexpr (fast)
      cpu::activation(call.context.pool(), one);
    else
      cpu::reference::activation(one);
  };
  return true;
}

template <bool fast>
bool make_activation_gradient(const CpuProblem& problem, CpuKernel& kernel, std::string& refusal) {
  cpu::ActivationGradient activation{cpu::ActivationKind::silu, problem.results[0].dtype, nullptr, nullptr, nullptr,
                                     problem.results[0].count()};
  if (!kind_of(problem, activation.kind, refusal)) return false;
  kernel.run = [activation](const CpuCall& call) {
    cpu::ActivationGradient one = activation;
    one.x = call.operands[0];
    one.dy = call.operands[1];
    one.dx = call.results[0];
    if constexpr (fast)
      cpu::activation_gradient(call.context.pool(), one);
    else
      cpu::reference::activation_gradient(one);
  };
  return true;
}

template <bool fast>
bool make_gated(const CpuProblem& problem, CpuKernel& kernel, std::string& refusal) {
  cpu::GatedActivation gated{};
  gated.type = problem.results[0].dtype;
  gated.rows = bind::rows(problem.results[0]);
  gated.width = bind::last(problem.results[0]);
  if (!kind_of(problem, gated.kind, refusal)) return false;
  kernel.run = [gated](const CpuCall& call) {
    cpu::GatedActivation one = gated;
    one.gate = call.operands[0];
    one.up = call.operands[1];
    one.y = call.results[0];
    if constexpr (fast)
      cpu::gated_activation(call.context.pool(), one);
    else
      cpu::reference::gated_activation(one);
  };
  return true;
}

template <bool fast>
bool make_gated_gradient(const CpuProblem& problem, CpuKernel& kernel, std::string& refusal) {
  cpu::GatedActivationGradient gated{};
  gated.type = problem.results[0].dtype;
  gated.rows = bind::rows(problem.results[0]);
  gated.width = bind::last(problem.results[0]);
  if (!kind_of(problem, gated.kind, refusal)) return false;
  kernel.run = [gated](const CpuCall& call) {
    cpu::GatedActivationGradient one = gated;
    one.gate = call.operands[0];
    one.up = call.operands[1];
    one.dy = call.operands[2];
    one.dgate = call.results[0];
    one.dup = call.results[1];
    if constexpr (fast)
      cpu::gated_activation_gradient(call.context.pool(), one);
    else
      cpu::reference::gated_activation_gradient(one);
  };
  return true;
}

const CpuKernels activation("activation", bind::fast_and_reference(make_activation<true>, make_activation<false>));
const CpuKernels activation_gradient("activation_gradient", bind::fast_and_reference(make_activation_gradient<true>,
                                                                                     make_activation_gradient<false>));
const CpuKernels gated("gated_activation", bind::fast_and_reference(make_gated<true>, make_gated<false>));
const CpuKernels gated_gradient("gated_activation_gradient",
                                bind::fast_and_reference(make_gated_gradient<true>, make_gated_gradient<false>));

}  // namespace
}  // namespace longhaul
