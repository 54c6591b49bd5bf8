// sum_squares, clip_coefficient, adamw.
#include "kernels/cpu/adamw.h"

#include <cstring>

#include "kernels/cpu/reductions.h"
#include "kernels/cpu/thread_pool.h"
#include "runtime/cpu/bind.h"

namespace longhaul {
namespace {

template <bool fast>
bool make_sum_squares(const CpuProblem& problem, CpuKernel& kernel, std::string&) {
  cpu::SumOfSquares sum{problem.operands[0].dtype, nullptr, problem.operands[0].count(), nullptr, nullptr};
  if (fast) kernel.scratch_bytes = cpu::sum_of_squares_scratch_bytes(sum.count);
  kernel.run = [sum](const CpuCall& call) {
    cpu::SumOfSquares one = sum;
    one.x = call.operands[0];
    one.result = static_cast<double*>(call.results[0]);
    one.scratch = call.scratch;
    if constexpr (fast)
      cpu::sum_of_squares(call.context.pool(), one);
    else
      cpu::reference::sum_of_squares(one);
  };
  return true;
}

bool make_clip(const CpuProblem& problem, CpuKernel& kernel, std::string&) {
  const double max_norm = problem.op.attributes.number("max_norm");
  kernel.run = [max_norm](const CpuCall& call) {
    cpu::clip_coefficient(*static_cast<const double*>(call.operands[0]), max_norm,
                          static_cast<double*>(call.results[0]), static_cast<double*>(call.results[1]));
  };
  return true;
}

template <bool fast>
bool make_adamw(const CpuProblem& problem, CpuKernel& kernel, std::string& refusal) {
  cpu::AdamW adamw{};
  adamw.type = problem.results[2].dtype;
  if (problem.results[0].dtype != adamw.type || problem.results[1].dtype != adamw.type ||
      problem.operands[2].dtype != adamw.type) {
    refusal = "moments and parameter of several dtypes";
    return false;
  }
  adamw.gradient_type = problem.operands[3].dtype;
  adamw.count = problem.results[0].count();
  adamw.beta1 = problem.op.attributes.number("beta1");
  adamw.beta2 = problem.op.attributes.number("beta2");
  adamw.epsilon = problem.op.attributes.number("epsilon");
  adamw.weight_decay = problem.op.attributes.number("weight_decay");
  kernel.run = [adamw](const CpuCall& call) {
    // The kernel works in place; where the plan could not, the old values come along first.
    const auto bytes = static_cast<std::size_t>(adamw.count) * size_of(adamw.type);
    for (int i = 0; i < 3; ++i)
      if (call.operands[i] != call.results[i]) std::memcpy(call.results[i], call.operands[i], bytes);
    cpu::AdamW one = adamw;
    one.m = call.results[0];
    one.v = call.results[1];
    one.parameter = call.results[2];
    one.gradient = call.operands[3];
    one.coefficient = static_cast<const double*>(call.operands[4]);
    one.learning_rate = static_cast<const double*>(call.operands[5]);
    one.step = static_cast<const double*>(call.operands[6]);
    if constexpr (fast)
      cpu::adamw(call.context.pool(), one);
    else
      cpu::reference::adamw(one);
  };
  return true;
}

const CpuKernels sum_squares("sum_squares", bind::fast_and_reference(make_sum_squares<true>, make_sum_squares<false>));
const CpuKernels clip("clip_coefficient", bind::only(make_clip));
const CpuKernels adamw("adamw", bind::fast_and_reference(make_adamw<true>, make_adamw<false>));

}  // namespace
}  // namespace longhaul
