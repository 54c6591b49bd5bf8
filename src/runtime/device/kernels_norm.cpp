// rms_norm, rms_norm_heads, layer_norm and their gradients; center.
#include <algorithm>

#include "runtime/device/bind.h"

namespace longhaul {
namespace {

struct Sizes {
  std::int64_t rows, columns;
};
// Over the last dimension, or of rms_norm_heads over the last two: those of the weight.
Sizes sizes_of(const DeviceProblem& problem) {
  const std::int64_t columns = problem.operands[1].count();
  return {problem.operands[0].count() / std::max<std::int64_t>(1, columns), columns};
}

// The kernels that keep a row in registers: whole vectors, weights as the activations, nothing added to them.
bool fits_registers(const DeviceProblem& problem, std::string& refusal) {
  const auto& x = problem.operands[0];
  if (!bind::narrow(refusal, {&x, &problem.operands[1]})) return false;
  const std::int64_t width = x.dtype == DType::bfloat16 ? 8 : 4, columns = sizes_of(problem).columns;
  if (problem.operands[1].dtype != x.dtype)
    refusal = "weights in another dtype than activations";
  else if (problem.op.attributes.number("weight_offset", 0) != 0)
    refusal = "an offset of the weights";
  else if (columns % width != 0 || columns > 2048 * width)
    refusal = "columns are no multiple of " + std::to_string(width) + " up to " + std::to_string(2048 * width);
  else
    return true;
  return false;
}

template <bool layer>
bool make_team(const DeviceProblem& problem, DeviceKernel& kernel, std::string& refusal) {
  if (!fits_registers(problem, refusal)) return false;
  using Call = cuda::NormForward;
  const Sizes sizes = sizes_of(problem);
  Call call{};
  call.rows = sizes.rows, call.columns = static_cast<std::int32_t>(sizes.columns), call.layer = layer;
  call.epsilon = static_cast<float>(problem.op.attributes.number("epsilon"));
  call.type = bind::type_of(problem.operands[0].dtype);
  if constexpr (layer)
    return bind::run(kernel, call, bind::operands(&Call::x, &Call::weight, &Call::bias), bind::results(&Call::y),
                     &cuda::Api::norm_forward);
  else
    return bind::run(kernel, call, bind::operands(&Call::x, &Call::weight), bind::results(&Call::y),
                     &cuda::Api::norm_forward);
}

bool gradients_in_single(const DeviceProblem& problem, std::string& refusal) {
  for (std::size_t i = 1; i < problem.results.size(); ++i)
    if (!bind::single(problem.results[i], "gradients of weights", refusal)) return false;
  return true;
}

template <bool layer>
bool make_team_gradient(const DeviceProblem& problem, DeviceKernel& kernel, std::string& refusal) {
  if (!fits_registers(problem, refusal) || !gradients_in_single(problem, refusal)) return false;
  using Call = cuda::NormBackward;
  const Sizes sizes = sizes_of(problem);
  Call call{};
  call.rows = sizes.rows, call.columns = static_cast<std::int32_t>(sizes.columns), call.layer = layer;
  call.epsilon = static_cast<float>(problem.op.attributes.number("epsilon"));
  call.type = bind::type_of(problem.operands[0].dtype);
  kernel.scratch_bytes = problem.context.api().norm_workspace(call.columns);
  const auto operands = bind::operands(&Call::x, &Call::weight, &Call::dy);
  if constexpr (layer)
    return bind::run(kernel, call, operands, bind::results(&Call::dx, &Call::dweight, &Call::dbias),
                     &cuda::Api::norm_backward);
  else
    return bind::run(kernel, call, operands, bind::results(&Call::dx, &Call::dweight), &cuda::Api::norm_backward);
}

template <bool layer>
bool make_generic(const DeviceProblem& problem, DeviceKernel& kernel, std::string& refusal) {
  if (!bind::narrow(refusal, {&problem.operands[0], &problem.operands[1]})) return false;
  using Call = cuda::GenericNorm;
  const Sizes sizes = sizes_of(problem);
  const Call call{sizes.rows,
                  sizes.columns,
                  layer ? cuda::Norm::layer : cuda::Norm::rms,
                  static_cast<float>(problem.op.attributes.number("epsilon")),
                  static_cast<float>(problem.op.attributes.number("weight_offset", 0)),
                  bind::type_of(problem.operands[0].dtype),
                  bind::type_of(problem.operands[1].dtype),
                  nullptr,
                  nullptr,
                  nullptr,
                  nullptr};
  if constexpr (layer)
    return bind::run(kernel, call, bind::operands(&Call::x, &Call::weight, &Call::bias), bind::results(&Call::y),
                     &cuda::Api::generic_norm);
  else
    return bind::run(kernel, call, bind::operands(&Call::x, &Call::weight), bind::results(&Call::y),
                     &cuda::Api::generic_norm);
}

template <bool layer>
bool make_generic_gradient(const DeviceProblem& problem, DeviceKernel& kernel, std::string& refusal) {
  if (!bind::narrow(refusal, {&problem.operands[0], &problem.operands[1]}) || !gradients_in_single(problem, refusal))
    return false;
  using Call = cuda::GenericNormGradient;
  const Sizes sizes = sizes_of(problem);
  Call call{};
  call.rows = sizes.rows, call.columns = sizes.columns;
  call.norm = layer ? cuda::Norm::layer : cuda::Norm::rms;
  call.epsilon = static_cast<float>(problem.op.attributes.number("epsilon"));
  call.weight_offset = static_cast<float>(problem.op.attributes.number("weight_offset", 0));
  call.type = bind::type_of(problem.operands[0].dtype), call.weight_type = bind::type_of(problem.operands[1].dtype);
  kernel.scratch_bytes = problem.context.api().generic_norm_workspace(sizes.rows, sizes.columns);
  const auto operands = bind::operands(&Call::x, &Call::weight, &Call::dy);
  if constexpr (layer)
    return bind::run(kernel, call, operands, bind::results(&Call::dx, &Call::dweight, &Call::dbias),
                     &cuda::Api::generic_norm_gradient);
  else
    return bind::run(kernel, call, operands, bind::results(&Call::dx, &Call::dweight),
                     &cuda::Api::generic_norm_gradient);
}

bool make_center(const DeviceProblem& problem, DeviceKernel& kernel, std::string& refusal) {
  if (!bind::narrow(refusal, {&problem.operands[0]})) return false;
  using Call = cuda::GenericNorm;
  Call call{};
  call.rows = bind::rows(problem.operands[0]), call.columns = bind::last(problem.operands[0]);
  call.norm = cuda::Norm::center;
  call.type = call.weight_type = bind::type_of(problem.operands[0].dtype);
  return bind::run(kernel, call, bind::operands(&Call::x), bind::results(&Call::y), &cuda::Api::generic_norm);
}

template <bool layer>
std::vector<DeviceCandidate> forward() {
  return {{"team", make_team<layer>}, {"generic", make_generic<layer>}};
}
template <bool layer>
std::vector<DeviceCandidate> gradient() {
  return {{"team", make_team_gradient<layer>}, {"generic", make_generic_gradient<layer>}};
}

const DeviceKernels rms("rms_norm", forward<false>());
const DeviceKernels rms_gradient("rms_norm_gradient", gradient<false>());
const DeviceKernels heads("rms_norm_heads", forward<false>());
const DeviceKernels heads_gradient("rms_norm_heads_gradient", gradient<false>());
const DeviceKernels layer("layer_norm", forward<true>());
const DeviceKernels layer_gradient("layer_norm_gradient", gradient<true>());
const DeviceKernels center("center", bind::generic(make_center));

}  // namespace
}  // namespace longhaul
