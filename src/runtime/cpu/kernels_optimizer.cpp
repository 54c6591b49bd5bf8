// sum_squares, clip_coefficient, adamw, sgd.
#include "kernels/cpu/adamw.h"

#include "kernels/cpu/reductions.h"
#include "kernels/cpu/sgd.h"
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

// Moments are as wide as the parameter, or bfloat16 beside a float32 one.
bool takes_moments(DType moment, DType parameter, std::string& refusal) {
  if (moment == parameter || (moment == DType::bfloat16 && parameter == DType::float32)) return true;
  refusal = fmt::format("moments of {} and parameters of {}", name_of(moment), name_of(parameter));
  return false;
}

template <bool fast>
bool make_adamw(const CpuProblem& problem, CpuKernel& kernel, std::string& refusal) {
  cpu::AdamW adamw{};
  adamw.type = problem.results[2].dtype;
  adamw.moment_type = problem.results[0].dtype;
  if (!takes_moments(adamw.moment_type, adamw.type, refusal)) return false;
  if (problem.results[1].dtype != adamw.moment_type || problem.operands[2].dtype != adamw.type) {
    refusal = "moments of several dtypes, or another one of the new parameter";
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
  const std::int64_t moment = problem.results[0].bytes();
  bind::copy_first(kernel, {{0, 0, moment}, {1, 1, moment}, {2, 2, problem.results[2].bytes()}});
  return true;
}

template <bool fast>
bool make_sgd_momentum(const CpuProblem& problem, CpuKernel& kernel, std::string& refusal) {
  cpu::Sgd sgd{};
  sgd.type = problem.results[1].dtype;
  sgd.moment_type = problem.results[0].dtype;
  if (!takes_moments(sgd.moment_type, sgd.type, refusal)) return false;
  sgd.gradient_type = problem.operands[2].dtype;
  sgd.count = problem.results[1].count();
  sgd.momentum = problem.op.attributes.number("momentum");
  sgd.nesterov = problem.op.attributes.integer("nesterov") != 0;
  sgd.weight_decay = problem.op.attributes.number("weight_decay");
  bind::run<fast>(
      kernel, sgd,
      bind::operands(bind::skip, bind::skip, &cpu::Sgd::gradient, &cpu::Sgd::coefficient, &cpu::Sgd::learning_rate),
      bind::results(&cpu::Sgd::m, &cpu::Sgd::parameter), cpu::sgd, cpu::reference::sgd);
  bind::copy_first(kernel, {{0, 0, problem.results[0].bytes()}, {1, 1, problem.results[1].bytes()}});
  return true;
}

template <bool fast>
bool make_sgd(const CpuProblem& problem, CpuKernel& kernel, std::string&) {
  cpu::Sgd sgd{};
  sgd.type = sgd.moment_type = problem.results[0].dtype;
  sgd.gradient_type = problem.operands[0].dtype;
  sgd.count = problem.results[0].count();
  sgd.weight_decay = problem.op.attributes.number("weight_decay");
  bind::run<fast>(kernel, sgd,
                  bind::operands(&cpu::Sgd::gradient, bind::skip, &cpu::Sgd::coefficient, &cpu::Sgd::learning_rate),
                  bind::results(&cpu::Sgd::parameter), cpu::sgd, cpu::reference::sgd);
  bind::copy_first(kernel, {{1, 0, problem.results[0].bytes()}});
  return true;
}

const CpuKernels sum_squares("sum_squares", bind::fast_and_reference(make_sum_squares<true>, make_sum_squares<false>));
const CpuKernels clip("clip_coefficient", bind::only(make_clip));
const CpuKernels sgd_momentum("sgd_momentum",
                              bind::fast_and_reference(make_sgd_momentum<true>, make_sgd_momentum<false>));
const CpuKernels sgd("sgd", bind::fast_and_reference(make_sgd<true>, make_sgd<false>));
const CpuKernels adamw("adamw", bind::fast_and_reference(make_adamw<true>, make_adamw<false>));

}  // namespace
}  // namespace longhaul
