// activation, gated_activation and their gradients.
#include "kernels/cpu/activation.h"

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
  return bind::run<fast>(kernel, activation, bind::operands(&cpu::Activation::x), bind::results(&cpu::Activation::y),
                         cpu::activation, cpu::reference::activation);
}

template <bool fast>
bool make_activation_gradient(const CpuProblem& problem, CpuKernel& kernel, std::string& refusal) {
  cpu::ActivationGradient activation{cpu::ActivationKind::silu, problem.results[0].dtype, nullptr, nullptr, nullptr,
                                     problem.results[0].count()};
  if (!kind_of(problem, activation.kind, refusal)) return false;
  return bind::run<fast>(kernel, activation, bind::operands(&cpu::ActivationGradient::x, &cpu::ActivationGradient::dy),
                         bind::results(&cpu::ActivationGradient::dx), cpu::activation_gradient,
                         cpu::reference::activation_gradient);
}

template <bool fast>
bool make_gated(const CpuProblem& problem, CpuKernel& kernel, std::string& refusal) {
  cpu::GatedActivation gated{};
  gated.type = problem.results[0].dtype;
  gated.rows = bind::rows(problem.results[0]);
  gated.width = bind::last(problem.results[0]);
  if (!kind_of(problem, gated.kind, refusal)) return false;
  return bind::run<fast>(kernel, gated, bind::operands(&cpu::GatedActivation::gate, &cpu::GatedActivation::up),
                         bind::results(&cpu::GatedActivation::y), cpu::gated_activation,
                         cpu::reference::gated_activation);
}

template <bool fast>
bool make_gated_gradient(const CpuProblem& problem, CpuKernel& kernel, std::string& refusal) {
  cpu::GatedActivationGradient gated{};
  gated.type = problem.results[0].dtype;
  gated.rows = bind::rows(problem.results[0]);
  gated.width = bind::last(problem.results[0]);
  if (!kind_of(problem, gated.kind, refusal)) return false;
  return bind::run<fast>(kernel, gated,
                         bind::operands(&cpu::GatedActivationGradient::gate, &cpu::GatedActivationGradient::up,
                                        &cpu::GatedActivationGradient::dy),
                         bind::results(&cpu::GatedActivationGradient::dgate, &cpu::GatedActivationGradient::dup),
                         cpu::gated_activation_gradient, cpu::reference::gated_activation_gradient);
}

const CpuKernels activation("activation", bind::fast_and_reference(make_activation<true>, make_activation<false>));
const CpuKernels activation_gradient("activation_gradient", bind::fast_and_reference(make_activation_gradient<true>,
                                                                                     make_activation_gradient<false>));
const CpuKernels gated("gated_activation", bind::fast_and_reference(make_gated<true>, make_gated<false>));
const CpuKernels gated_gradient("gated_activation_gradient",
                                bind::fast_and_reference(make_gated_gradient<true>, make_gated_gradient<false>));

}  // namespace
}  // namespace longhaul
