// sum_squares, clip_coefficient, adamw, sgd.
#include "kernels/cpu/adamw.h"

#include "kernels/cpu/adamw_8bit.h"
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
bool make_adamw_8bit(const CpuProblem& problem, CpuKernel& kernel, std::string& refusal) {
  if (problem.results[4].dtype != DType::float32 || problem.results[0].dtype != DType::uint8 ||
      problem.results[2].dtype != DType::uint8) {
    refusal = fmt::format("codes of {} and parameters of {}", name_of(problem.results[0].dtype),
                          name_of(problem.results[4].dtype));
    return false;
  }
  cpu::AdamW8Bit adamw{};
  adamw.step.type = DType::float32;
  adamw.step.gradient_type = problem.operands[5].dtype;
  adamw.step.count = problem.results[0].count();
  adamw.step.beta1 = problem.op.attributes.number("beta1");
  adamw.step.beta2 = problem.op.attributes.number("beta2");
  adamw.step.epsilon = problem.op.attributes.number("epsilon");
  adamw.step.weight_decay = problem.op.attributes.number("weight_decay");
  kernel.run = [adamw](const CpuCall& call) {
    cpu::AdamW8Bit p = adamw;
    p.m_codes = static_cast<std::uint8_t*>(call.results[0]);
    p.m_scales = static_cast<float*>(call.results[1]);
    p.v_codes = static_cast<std::uint8_t*>(call.results[2]);
    p.v_scales = static_cast<float*>(call.results[3]);
    p.step.parameter = call.results[4];
    p.step.gradient = call.operands[5];
    p.step.coefficient = static_cast<const double*>(call.operands[6]);
    p.step.learning_rate = static_cast<const double*>(call.operands[7]);
    p.step.step = static_cast<const double*>(call.operands[8]);
    fast ? cpu::adamw_8bit(call.context.pool(), p) : cpu::reference::adamw_8bit(p);
  };
  std::vector<bind::Continued> copies;
  for (std::size_t i = 0; i < 5; ++i) copies.push_back({i, i, problem.results[i].bytes()});
  bind::copy_first(kernel, std::move(copies));
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
const CpuKernels adamw_8bit("adamw_8bit", bind::fast_and_reference(make_adamw_8bit<true>, make_adamw_8bit<false>));
const CpuKernels adamw("adamw", bind::fast_and_reference(make_adamw<true>, make_adamw<false>));

}  // namespace
}  // namespace longhaul
