#include "runtime/cpu/kernel.h"

#include <map>

#include "base/error.h"
#include "base/log.h"
#include "ir/op_definition.h"

namespace longhaul {
namespace {

std::map<std::string, std::vector<KernelCandidate>>& registry() {
  static std::map<std::string, std::vector<KernelCandidate>> table;  // filled before main, read-only afterwards
  return table;
}

std::string describe(const KernelProblem& problem) {
  std::string text = problem.op.definition->name + "(";
  for (const auto& operand : problem.operands) {
    text += text.back() == '(' ? "" : ", ";
    text += fmt::format("{}[", name_of(operand.dtype));
    for (std::size_t i = 0; i < operand.shape.size(); ++i) text += fmt::format("{}{}", i ? "," : "", operand.shape[i]);
    text += "]";
  }
  return text + ")";
}

}  // namespace

KernelRegistration::KernelRegistration(std::string op, std::vector<KernelCandidate> candidates) {
  LONGHAUL_CHECK(registry().emplace(op, std::move(candidates)).second, "kernels of {} are registered twice", op);
}

const std::vector<KernelCandidate>& kernel_candidates(const std::string& op) {
  const auto it = registry().find(op);
  LONGHAUL_CHECK(it != registry().end(), "no CPU kernel for op {}", op);
  return it->second;
}

Kernel choose_kernel(const KernelProblem& problem, bool reference_only) {
  const auto& candidates = kernel_candidates(problem.op.definition->name);
  std::string refusals;
  for (std::size_t i = reference_only ? candidates.size() - 1 : 0; i < candidates.size(); ++i) {
    Kernel kernel;
    std::string reason;
    if (candidates[i].make(problem, kernel, reason)) {
      if (kernel.name.empty()) kernel.name = candidates[i].name;
      log_debug("kernel {} for {}{}", kernel.name, describe(problem), refusals);
      return kernel;
    }
    refusals += fmt::format("; {} refused: {}", candidates[i].name, reason);
  }
  fail("no kernel takes {}{}", describe(problem), refusals);
}

KernelProblem kernel_problem(const Graph& graph, const Op& op, int threads, bool single_device) {
  KernelProblem problem{op, {}, {}, threads, single_device, nullptr};
  const auto type = [&](ValueId id) {
    const Value& value = graph[id];
    return TensorType{single_device ? value.shape : local_shape(value.shape, value.layout, graph.mesh), value.dtype};
  };
  for (ValueId operand : op.operands) problem.operands.push_back(type(operand));
  for (ValueId result : op.results) problem.results.push_back(type(result));
  return problem;
}

}  // namespace longhaul
