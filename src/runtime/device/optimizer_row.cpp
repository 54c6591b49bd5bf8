#include "runtime/device/optimizer_row.h"

#include "runtime/device/bind.h"

namespace longhaul {

using cuda::OptimizerRule;

bool optimizer_step(const LocalOp& op, cuda::OptimizerStep& step, std::string& refusal) {
  const auto number = [&](const char* name) { return op.op.attributes.number(name); };
  std::size_t parameter = 0, moments = 0, gradient = 1;  // which result, how many, which operand
  if (op.name() == "adamw") {
    step.rule = OptimizerRule::adamw, parameter = 2, moments = 2, gradient = 3;
    step.beta1 = number("beta1"), step.beta2 = number("beta2"), step.epsilon = number("epsilon");
  } else if (op.name() == "sgd") {
    step.rule = OptimizerRule::sgd, gradient = 0;
  } else if (op.name() == "sgd_momentum") {
    step.rule = OptimizerRule::sgd, parameter = 1, moments = 1, gradient = 2;
  } else if (op.name() == "muon_momentum") {
    step.rule = OptimizerRule::muon_momentum, parameter = 1, moments = 1;
  } else if (op.name() == "muon_step") {
    step.rule = OptimizerRule::muon_step;
    step.one.scale = number("scale");
  } else {
    refusal = "no step of an optimizer";
    return false;
  }
  if (step.rule != OptimizerRule::adamw && moments == 1) {
    step.beta1 = number("momentum");
    step.nesterov = op.op.attributes.integer("nesterov") != 0;
  }
  if (step.rule != OptimizerRule::muon_momentum) step.one.weight_decay = number("weight_decay");
  if (!bind::single(op.results[parameter], "parameters and updates", refusal) ||
      !bind::narrow(refusal, {&op.operands[gradient]}))
    return false;
  for (std::size_t i = 0; i < moments; ++i) {
    if (!bind::narrow(refusal, {&op.results[i]})) return false;
    if (op.results[i].dtype != op.results[0].dtype) {
      refusal = "moments of several dtypes";
      return false;
    }
  }
  step.one.count = op.results[parameter].count();
  step.one.moment_type = moments ? bind::type_of(op.results[0].dtype) : cuda::Type::float32;
  step.one.gradient_type = bind::type_of(op.operands[gradient].dtype);
  return true;
}

void connect_optimizer(cuda::OptimizerStep& step, std::string_view name, const void* const* operands,
                       void* const* results) {
  const auto scalar = [&](int i) { return static_cast<const double*>(operands[i]); };
  cuda::OptimizerTensor& one = step.one;
  if (name == "adamw") {
    one.first_moment = results[0], one.second_moment = results[1], one.gradient = operands[3];
    one.parameter = static_cast<float*>(results[2]);
    step.coefficient = scalar(4), step.learning_rate = scalar(5), step.step = scalar(6);
  } else if (name == "sgd") {
    one.gradient = operands[0], one.parameter = static_cast<float*>(results[0]);
    step.coefficient = scalar(2), step.learning_rate = scalar(3);
  } else if (name == "sgd_momentum") {
    one.first_moment = results[0], one.gradient = operands[2], one.parameter = static_cast<float*>(results[1]);
    step.coefficient = scalar(3), step.learning_rate = scalar(4);
  } else if (name == "muon_momentum") {
    one.first_moment = results[0], one.gradient = operands[1], one.parameter = static_cast<float*>(results[1]);
    step.coefficient = scalar(2);
  } else {
    one.gradient = operands[1], one.parameter = static_cast<float*>(results[0]);
    step.learning_rate = scalar(2);
  }
}

}  // namespace longhaul
