// rms_norm, layer_norm and their gradients.
#include "kernels/cpu/center.h"
#include "kernels/cpu/layer_norm.h"
#include "kernels/cpu/rms_norm.h"
#include "runtime/cpu/bind.h"

namespace longhaul {
namespace {

// What all have alike. Over the last dimension, or of rms_norm_heads over the last two: those of the weight.
template <class Norm>
Norm norm_of(const CpuProblem& problem) {
  Norm norm{};
  norm.type = problem.results[0].dtype;
  norm.weight_type = problem.operands[1].dtype;
  norm.d = problem.operands[1].count();
  norm.rows = problem.operands[0].count() / std::max<std::int64_t>(1, norm.d);
  norm.epsilon = problem.op.attributes.number("epsilon");
  if constexpr (requires { norm.dweight_type; }) norm.dweight_type = problem.results[1].dtype;
  if constexpr (requires { norm.weight_offset; }) norm.weight_offset = problem.op.attributes.number("weight_offset", 0);
  return norm;
}

template <bool fast>
bool make_rms_norm(const CpuProblem& problem, CpuKernel& kernel, std::string&) {
  using Norm = cpu::RmsNorm;
  return bind::run<fast>(kernel, norm_of<Norm>(problem), bind::operands(&Norm::x, &Norm::weight),
                         bind::results(&Norm::y), cpu::rms_norm, cpu::reference::rms_norm);
}

template <bool fast>
bool make_rms_norm_gradient(const CpuProblem& problem, CpuKernel& kernel, std::string&) {
  using Norm = cpu::RmsNormGradient;
  const Norm norm = norm_of<Norm>(problem);
  if (fast) kernel.scratch_bytes = cpu::rms_norm_gradient_scratch_bytes(norm.type, norm.rows, norm.d);
  return bind::run<fast>(kernel, norm, bind::operands(&Norm::x, &Norm::weight, &Norm::dy),
                         bind::results(&Norm::dx, &Norm::dweight), cpu::rms_norm_gradient,
                         cpu::reference::rms_norm_gradient);
}

template <bool fast>
bool make_layer_norm(const CpuProblem& problem, CpuKernel& kernel, std::string&) {
  using Norm = cpu::LayerNorm;
  return bind::run<fast>(kernel, norm_of<Norm>(problem), bind::operands(&Norm::x, &Norm::weight, &Norm::bias),
                         bind::results(&Norm::y), cpu::layer_norm, cpu::reference::layer_norm);
}

template <bool fast>
bool make_layer_norm_gradient(const CpuProblem& problem, CpuKernel& kernel, std::string&) {
  using Norm = cpu::LayerNormGradient;
  const Norm norm = norm_of<Norm>(problem);
  if (fast) kernel.scratch_bytes = cpu::layer_norm_gradient_scratch_bytes(norm.type, norm.rows, norm.d);
  return bind::run<fast>(kernel, norm, bind::operands(&Norm::x, &Norm::weight, &Norm::dy),
                         bind::results(&Norm::dx, &Norm::dweight, &Norm::dbias), cpu::layer_norm_gradient,
                         cpu::reference::layer_norm_gradient);
}

bool make_center(const CpuProblem& problem, CpuKernel& kernel, std::string&) {
  using Center = cpu::Center;
  const Center center{problem.results[0].dtype, nullptr, nullptr, bind::rows(problem.operands[0]),
                      bind::last(problem.operands[0])};
  return bind::run(kernel, center, bind::operands(&Center::x), bind::results(&Center::y), cpu::center);
}

const CpuKernels rms("rms_norm", bind::fast_and_reference(make_rms_norm<true>, make_rms_norm<false>));
const CpuKernels rms_gradient("rms_norm_gradient",
                              bind::fast_and_reference(make_rms_norm_gradient<true>, make_rms_norm_gradient<false>));
const CpuKernels heads("rms_norm_heads", bind::fast_and_reference(make_rms_norm<true>, make_rms_norm<false>));
const CpuKernels heads_gradient("rms_norm_heads_gradient",
                                bind::fast_and_reference(make_rms_norm_gradient<true>, make_rms_norm_gradient<false>));
const CpuKernels center("center", bind::only(make_center));
const CpuKernels layer("layer_norm", bind::fast_and_reference(make_layer_norm<true>, make_layer_norm<false>));
const CpuKernels layer_gradient("layer_norm_gradient", bind::fast_and_reference(make_layer_norm_gradient<true>,
                                                                                make_layer_norm_gradient<false>));

}  // namespace
}  // namespace longhaul
