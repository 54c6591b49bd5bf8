// cross_entropy and its gradient, count_valid, loss_head; those that also give each token's loss.
#include <memory>

#include "kernels/cpu/cross_entropy.h"
#include "kernels/cpu/loss_head.h"
#include "kernels/cpu/reductions.h"
#include "kernels/cpu/thread_pool.h"
#include "runtime/cpu/bind.h"

namespace longhaul {
namespace {

cpu::LogitTransform transform_of(const Op& op) {
  return {op.attributes.number("logits_scale", 1), op.attributes.number("soft_cap", 0)};
}

template <bool fast, bool gradient>
bool make_cross_entropy(const CpuProblem& problem, CpuKernel& kernel, std::string&) {
  cpu::CrossEntropy loss{};
  loss.type = problem.operands[0].dtype;
  loss.rows = bind::rows(problem.operands[0]);
  loss.v = bind::last(problem.operands[0]);
  loss.transform = transform_of(problem.op);
  if (gradient) loss.gradient_type = problem.results[0].dtype;
  if (fast)
    kernel.scratch_bytes = cpu::cross_entropy_scratch_bytes(loss.type, loss.rows, loss.v, problem.context.threads());
  using Loss = cpu::CrossEntropy;
  if constexpr (gradient)
    return bind::run<fast>(kernel, loss, bind::operands(&Loss::logits, &Loss::labels, &Loss::scale),
                           bind::results(&Loss::dlogits), cpu::cross_entropy, cpu::reference::cross_entropy);
  else if (problem.results.size() == 2)
    return bind::run<fast>(kernel, loss, bind::operands(&Loss::logits, &Loss::labels),
                           bind::results(&Loss::loss_sum, &Loss::losses), cpu::cross_entropy,
                           cpu::reference::cross_entropy);
  else
    return bind::run<fast>(kernel, loss, bind::operands(&Loss::logits, &Loss::labels), bind::results(&Loss::loss_sum),
                           cpu::cross_entropy, cpu::reference::cross_entropy);
}

bool make_count_valid(const CpuProblem& problem, CpuKernel& kernel, std::string&) {
  const std::int64_t count = problem.operands[0].count();
  kernel.run = [count](const CpuCall& call) {
    cpu::count_valid(static_cast<const std::int32_t*>(call.operands[0]), count, static_cast<double*>(call.results[0]));
  };
  return true;
}

template <bool fast, bool tokens>
bool make_loss_head(const CpuProblem& problem, CpuKernel& kernel, std::string& refusal) {
  constexpr std::size_t losses = tokens ? 2 : 1;  // results before the gradients
  const bool gradients = problem.results.size() > losses, weight = problem.results.size() > losses + 1;
  cpu::LossHeadProblem head{};
  head.type = problem.operands[0].dtype;
  head.rows = bind::rows(problem.operands[0]);
  head.d = bind::last(problem.operands[0]);
  head.v = problem.operands[1].shape[0];
  head.dweight_type = weight                        ? problem.results[losses + 1].dtype
                      : head.type == DType::float64 ? DType::float64
                                                    : DType::float32;
  head.gradients = gradients;
  head.trains_weight = weight;
  head.transform = transform_of(problem.op);
  if (problem.operands[1].dtype != head.type) {
    refusal = "input and weight of two dtypes";
    return false;
  }
  if (head.dweight_type != (head.type == DType::float64 ? DType::float64 : DType::float32)) {
    refusal = "weight gradients in a dtype other than that of accumulation";
    return false;
  }
  std::shared_ptr<cpu::LossHead> plan;
  if constexpr (fast) {
    plan = std::make_shared<cpu::LossHead>(head, problem.context.threads(), "", problem.context.libraries());
    kernel.scratch_bytes = plan->scratch_bytes();
    kernel.provisional = !problem.context.libraries();
  }
  kernel.run = [=](const CpuCall& call) {  // the plan, or the head
    cpu::LossHeadArguments arguments{};
    arguments.x = call.operands[0];
    arguments.w = call.operands[1];
    arguments.labels = static_cast<const std::int32_t*>(call.operands[2]);
    arguments.loss_sum = static_cast<double*>(call.results[0]);
    arguments.scratch = call.scratch;
    if (tokens) arguments.losses = call.results[1];
    if (gradients) {
      arguments.scale = static_cast<const double*>(call.operands[3]);
      arguments.dx = call.results[losses];
      if (weight) arguments.dw = call.results[losses + 1];
    }
    if constexpr (fast)
      plan->run(call.context.pool(), arguments);
    else
      cpu::reference::loss_head(head, arguments);
  };
  return true;
}

const auto cross_entropy_forms =
    bind::fast_and_reference(make_cross_entropy<true, false>, make_cross_entropy<false, false>);
const CpuKernels cross_entropy("cross_entropy", cross_entropy_forms);
const CpuKernels cross_entropy_tokens("cross_entropy_tokens", cross_entropy_forms);
const CpuKernels cross_entropy_gradient("cross_entropy_gradient",
                                        bind::fast_and_reference(make_cross_entropy<true, true>,
                                                                 make_cross_entropy<false, true>));
const CpuKernels count_valid("count_valid", bind::only(make_count_valid));
const auto loss_head_forms = bind::fast_and_reference(make_loss_head<true, false>, make_loss_head<false, false>);
const auto token_forms = bind::fast_and_reference(make_loss_head<true, true>, make_loss_head<false, true>);
const CpuKernels loss_head("loss_head", loss_head_forms);
const CpuKernels loss_head_evaluate("loss_head_evaluate", loss_head_forms);
const CpuKernels loss_head_frozen("loss_head_frozen", loss_head_forms);
const CpuKernels loss_head_frozen_tokens("loss_head_frozen_tokens", token_forms);
const CpuKernels loss_head_tokens("loss_head_tokens", token_forms);
const CpuKernels loss_head_evaluate_tokens("loss_head_evaluate_tokens", token_forms);

}  // namespace
}  // namespace longhaul
