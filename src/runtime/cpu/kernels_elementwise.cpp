// add, scale, multiply, constant, add_bias, sum_leading, cast.
#include "kernels/cpu/elementwise.h"

#include "runtime/cpu/bind.h"

namespace longhaul {
namespace {

template <bool fast>
bool make_add(const CpuProblem& problem, CpuKernel& kernel, std::string& refusal) {
  const DType type = problem.results[0].dtype;
  for (const auto& operand : problem.operands)
    if (operand.dtype != type) {
      refusal = "operands of several dtypes";
      return false;
    }
  cpu::Add add{type, nullptr, static_cast<int>(problem.operands.size()), nullptr, problem.results[0].count()};
  kernel.run = [add](const CpuCall& call) {
    cpu::Add one = add;
    one.inputs = call.operands;
    one.y = call.results[0];
    if constexpr (fast)
      cpu::add(call.context.pool(), one);
    else
      cpu::reference::add(one);
  };
  return true;
}

template <bool fast>
bool make_scale(const CpuProblem& problem, CpuKernel& kernel, std::string&) {
  cpu::Scale scale{problem.results[0].dtype,
                   nullptr,
                   nullptr,
                   problem.results[0].count(),
                   problem.op.attributes.number("factor", 1),
                   nullptr};
  return bind::run<fast>(kernel, scale, bind::operands(&cpu::Scale::x), bind::results(&cpu::Scale::y), cpu::scale,
                         cpu::reference::scale);
}

bool make_multiply(const CpuProblem& problem, CpuKernel& kernel, std::string& refusal) {
  if (problem.operands[0].dtype != DType::float64) {
    refusal = "scalars are float64";
    return false;
  }
  kernel.run = [](const CpuCall& call) {
    *static_cast<double*>(call.results[0]) =
        *static_cast<const double*>(call.operands[0]) * *static_cast<const double*>(call.operands[1]);
  };
  return true;
}

bool make_constant(const CpuProblem& problem, CpuKernel& kernel, std::string&) {
  const double value = problem.op.attributes.number("value");
  kernel.run = [value](const CpuCall& call) { *static_cast<double*>(call.results[0]) = value; };
  return true;
}

template <bool fast>
bool make_add_bias(const CpuProblem& problem, CpuKernel& kernel, std::string&) {
  const std::int64_t d = problem.operands[1].count();
  cpu::AddBias bias{problem.results[0].dtype,       nullptr, problem.operands[1].dtype, nullptr, nullptr,
                    problem.results[0].count() / d, d};
  return bind::run<fast>(kernel, bias, bind::operands(&cpu::AddBias::x, &cpu::AddBias::bias),
                         bind::results(&cpu::AddBias::y), cpu::add_bias, cpu::reference::add_bias);
}

template <bool fast>
bool make_sum_leading(const CpuProblem& problem, CpuKernel& kernel, std::string& refusal) {
  const std::string &in = problem.op.signature->operands[0], &out = problem.op.signature->results[0];
  if (!in.ends_with(out)) {
    refusal = "sums over other than leading dimensions";
    return false;
  }
  const std::int64_t d = problem.results[0].count(), rows = problem.operands[0].count() / d;
  cpu::SumRows sum{problem.operands[0].dtype, nullptr, problem.results[0].dtype, nullptr, rows, d, nullptr};
  if (fast) kernel.scratch_bytes = cpu::sum_rows_scratch_bytes(sum.type, rows, d);
  return bind::run<fast>(kernel, sum, bind::operands(&cpu::SumRows::x), bind::results(&cpu::SumRows::out),
                         cpu::sum_rows, cpu::reference::sum_rows);
}

template <bool fast>
bool make_cast(const CpuProblem& problem, CpuKernel& kernel, std::string&) {
  cpu::Cast cast{problem.operands[0].dtype, nullptr, problem.results[0].dtype, nullptr, problem.results[0].count()};
  return bind::run<fast>(kernel, cast, bind::operands(&cpu::Cast::x), bind::results(&cpu::Cast::y), cpu::cast,
                         cpu::reference::cast);
}

const CpuKernels add("add", bind::fast_and_reference(make_add<true>, make_add<false>));
const CpuKernels scale("scale", bind::fast_and_reference(make_scale<true>, make_scale<false>));
const CpuKernels multiply("multiply", bind::only(make_multiply));
const CpuKernels constant("constant", bind::only(make_constant));
const CpuKernels add_bias("add_bias", bind::fast_and_reference(make_add_bias<true>, make_add_bias<false>));
const CpuKernels sum_leading("sum_leading", bind::fast_and_reference(make_sum_leading<true>, make_sum_leading<false>));
const CpuKernels cast("cast", bind::fast_and_reference(make_cast<true>, make_cast<false>));

}  // namespace
}  // namespace longhaul
