// sum_squares, clip_coefficient, adamw.
#include "runtime/device/bind.h"

namespace longhaul {
namespace {

bool make_sum_squares(const DeviceProblem& problem, DeviceKernel& kernel, std::string& refusal) {
  const auto& x = problem.operands[0];
  if (!bind::narrow(refusal, {&x})) return false;
  const cuda::Type type = bind::type_of(x.dtype);
  kernel.scratch_bytes = problem.context.api().sum_of_squares_workspace();
  kernel.run = [type, count = x.count()](const DeviceCall& call) {
    call.context.succeed(call.context.api().sum_of_squares(
        call.operands[0], type, count, 0, static_cast<double*>(call.results[0]), call.scratch, call.context.stream()));
  };
  return true;
}

bool make_clip(const DeviceProblem& problem, DeviceKernel& kernel, std::string&) {
  using Clip = cuda::ClipCoefficient;
  Clip clip{};
  clip.max_norm = problem.op.attributes.number("max_norm");
  return bind::run(kernel, clip, bind::operands(&Clip::sum), bind::results(&Clip::coefficient, &Clip::norm),
                   &cuda::Api::clip_coefficient);
}

bool make_adamw(const DeviceProblem& problem, DeviceKernel& kernel, std::string& refusal) {
  for (const TensorType& result : problem.results)
    if (!bind::single(result, "moments and parameter", refusal)) return false;
  if (!bind::narrow(refusal, {&problem.operands[3]})) return false;
  using Step = cuda::AdamWStep;
  Step step{};
  step.count = problem.results[0].count();
  step.gradient_type = bind::type_of(problem.operands[3].dtype);
  step.beta1 = problem.op.attributes.number("beta1");
  step.beta2 = problem.op.attributes.number("beta2");
  step.epsilon = problem.op.attributes.number("epsilon");
  step.weight_decay = problem.op.attributes.number("weight_decay");
  bind::run(kernel, step,
            bind::operands(bind::skip, bind::skip, bind::skip, &Step::gradient, &Step::coefficient,
                           &Step::learning_rate, &Step::step),
            bind::results(&Step::first_moment, &Step::second_moment, &Step::parameter), &cuda::Api::adamw_step);
  const std::int64_t bytes = problem.results[0].bytes();
  bind::copy_first(kernel, {{0, 0, bytes}, {1, 1, bytes}, {2, 2, bytes}});
  return true;
}

const DeviceKernels sum_squares("sum_squares", bind::generic(make_sum_squares));
const DeviceKernels clip("clip_coefficient", bind::generic(make_clip));
const DeviceKernels adamw("adamw", bind::generic(make_adamw));

}  // namespace
}  // namespace longhaul
