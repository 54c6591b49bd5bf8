// muon_momentum, orthogonalize, muon_step.
#include <memory>

#include "kernels/cpu/muon.h"
#include "runtime/cpu/bind.h"

namespace longhaul {
namespace {

template <bool fast>
bool make_momentum(const CpuProblem& problem, CpuKernel& kernel, std::string& refusal) {
  cpu::MuonMomentum one{};
  one.type = problem.results[1].dtype;
  one.moment_type = problem.results[0].dtype;
  if (one.moment_type != one.type && (one.moment_type != DType::bfloat16 || one.type != DType::float32)) {
    refusal = fmt::format("moments of {} and updates of {}", name_of(one.moment_type), name_of(one.type));
    return false;
  }
  one.gradient_type = problem.operands[1].dtype;
  one.count = problem.results[1].count();
  one.momentum = problem.op.attributes.number("momentum");
  one.nesterov = problem.op.attributes.integer("nesterov") != 0;
  bind::run<fast>(kernel, one,
                  bind::operands(bind::skip, &cpu::MuonMomentum::gradient, &cpu::MuonMomentum::coefficient),
                  bind::results(&cpu::MuonMomentum::m, &cpu::MuonMomentum::update), cpu::muon_momentum,
                  cpu::reference::muon_momentum);
  bind::copy_first(kernel, {{0, 0, problem.results[0].bytes()}});
  return true;
}

template <bool fast>
bool make_step(const CpuProblem& problem, CpuKernel& kernel, std::string& refusal) {
  cpu::MuonStep one{};
  one.type = problem.results[0].dtype;
  if (problem.operands[1].dtype != one.type) {
    refusal = "parameter and update of two dtypes";
    return false;
  }
  one.count = problem.results[0].count();
  one.scale = problem.op.attributes.number("scale");
  one.weight_decay = problem.op.attributes.number("weight_decay");
  bind::run<fast>(kernel, one, bind::operands(bind::skip, &cpu::MuonStep::update, &cpu::MuonStep::learning_rate),
                  bind::results(&cpu::MuonStep::parameter), cpu::muon_step, cpu::reference::muon_step);
  bind::copy_first(kernel, {{0, 0, problem.results[0].bytes()}});
  return true;
}

cpu::Orthogonalize matrix_of(const CpuProblem& problem) {
  cpu::Orthogonalize one{};
  one.type = problem.results[0].dtype;
  one.rows = problem.op.attributes.integer("rows");
  one.columns = problem.results[0].count() / one.rows;
  return one;
}

bool make_orthogonalize(const CpuProblem& problem, CpuKernel& kernel, std::string& refusal) {
  const cpu::Orthogonalize one = matrix_of(problem);
  if (one.type == DType::bfloat16) {
    refusal = "it is computed in float32 or float64";
    return false;
  }
  auto plan = std::make_shared<cpu::Orthogonalizer>(one.type, one.rows, one.columns, problem.context.threads(),
                                                    problem.context.libraries());
  kernel.scratch_bytes = plan->scratch_bytes();
  kernel.run = [plan](const CpuCall& call) {
    plan->run(call.context.pool(), call.operands[0], call.results[0], call.scratch);
  };
  return true;
}

bool make_reference(const CpuProblem& problem, CpuKernel& kernel, std::string& refusal) {
  const cpu::Orthogonalize one = matrix_of(problem);
  if (one.type == DType::bfloat16) {
    refusal = "it is computed in float32 or float64";
    return false;
  }
  return bind::run(kernel, one, bind::operands(&cpu::Orthogonalize::x), bind::results(&cpu::Orthogonalize::y),
                   cpu::reference::orthogonalize);
}

const CpuKernels momentum("muon_momentum", bind::fast_and_reference(make_momentum<true>, make_momentum<false>));
const CpuKernels orthogonalize("orthogonalize", bind::fast_and_reference(make_orthogonalize, make_reference));
const CpuKernels step("muon_step", bind::fast_and_reference(make_step<true>, make_step<false>));

}  // namespace
}  // namespace longhaul
