// sum_squares, clip_coefficient, adamw.
#include "kernels/cpu/adamw.h"

#include "kernels/cpu/reductions.h"
#include "runtime/cpu/bind.h"

namespace longhaul {
namespace {

template <bool fast>
bool make_sum_squares(const CpuProblem& problem, CpuKernel& kernel, std::string&) {
  cpu::SumOfSquares sum{problem.operands[0].dtype, nullptr, problem.operands[0].count(), nullptr, nullptr};
  if (fast) kernel.scratch_bytes = cpu::sum_of_squares_scratch_bytes(sum.count);
  return bind::run<fast>(kernel, sum, bind::operands(&cpu::SumOfSquares::x), bind::results(&cpu::SumOfSquares::result),
                         cpu::sum_of_squares, cpu::reference::sum_of_squares);
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
  bind::run<fast>(kernel, adamw,
                  bind::operands(bind::skip, bind::skip, bind::skip, &cpu::AdamW::gradient, &cpu::AdamW::coefficient,
                                 &cpu::AdamW::learning_rate, &cpu::AdamW::step),
                  bind::results(&cpu::AdamW::m, &cpu::AdamW::v, &cpu::AdamW::parameter), cpu::adamw,
                  cpu::reference::adamw);
  const std::int64_t bytes = problem.results[0].bytes();
  bind::copy_first(kernel, {{0, 0, bytes}, {1, 1, bytes}, {2, 2, bytes}});
  return true;
}

const CpuKernels sum_squares("sum_squares", bind::fast_and_reference(make_sum_squares<true>, make_sum_squares<false>));
const CpuKernels clip("clip_coefficient", bind::only(make_clip));
const CpuKernels adamw("adamw", bind::fast_and_reference(make_adamw<true>, make_adamw<false>));

}  // namespace
}  // namespace longhaul
