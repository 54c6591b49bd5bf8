// add, scale, multiply, constant, add_bias, sum_leading, cast; activation, gated_activation and their gradients.
#include <algorithm>

#include "runtime/device/bind.h"

namespace longhaul {
namespace {

bool make_add(const DeviceProblem& problem, DeviceKernel& kernel, std::string& refusal) {
  cuda::Add add{};
  add.count = problem.results[0].count();
  add.type = bind::type_of(problem.results[0].dtype);
  const std::size_t inputs = problem.operands.size();
  for (const auto& operand : problem.operands)
    if (operand.dtype != problem.results[0].dtype) {
      refusal = "operands of several dtypes";
      return false;
    }
  if (add.type == cuda::Type::bfloat16 && inputs > cuda::kMaximumInputs) {
    refusal = "more bfloat16 operands than one launch adds, and sums in between would be rounded";
    return false;
  }
  kernel.run = [add, inputs](const DeviceCall& call) {
    // As many as a launch takes; the sum so far is the first of the next.
    for (std::size_t begin = 0; begin == 0 || begin < inputs;) {
      cuda::Add one = add;
      one.y = call.results[0];
      if (begin > 0) one.x[one.inputs++] = call.results[0];
      while (one.inputs < cuda::kMaximumInputs && begin < inputs) one.x[one.inputs++] = call.operands[begin++];
      call.context.succeed(call.context.api().add(&one, call.context.stream()));
    }
  };
  return true;
}

bool make_scale(const DeviceProblem& problem, DeviceKernel& kernel, std::string& refusal) {
  if (!bind::narrow(refusal, {&problem.results[0]})) return false;
  const cuda::Scale scale{problem.results[0].count(),
                          bind::type_of(problem.results[0].dtype),
                          static_cast<float>(problem.op.attributes.number("factor", 1)),
                          nullptr,
                          nullptr,
                          nullptr};
  return bind::run(kernel, scale, bind::operands(&cuda::Scale::x), bind::results(&cuda::Scale::y), &cuda::Api::scale);
}

bool make_multiply(const DeviceProblem& problem, DeviceKernel& kernel, std::string& refusal) {
  if (problem.operands[0].dtype != DType::float64) {
    refusal = "scalars are float64";
    return false;
  }
  using Product = cuda::ScalarProduct;
  return bind::run(kernel, Product{}, bind::operands(&Product::a, &Product::b), bind::results(&Product::to),
                   &cuda::Api::scalar_product);
}

bool make_constant(const DeviceProblem& problem, DeviceKernel& kernel, std::string& refusal) {
  if (problem.results[0].dtype != DType::float64 || problem.results[0].count() != 1) {
    refusal = "constants are float64 scalars";
    return false;
  }
  const cuda::ScalarConstant constant{problem.op.attributes.number("value"), nullptr};
  return bind::run(kernel, constant, bind::operands(), bind::results(&cuda::ScalarConstant::to),
                   &cuda::Api::scalar_constant);
}

bool make_add_bias(const DeviceProblem& problem, DeviceKernel& kernel, std::string& refusal) {
  if (!bind::narrow(refusal, {&problem.results[0], &problem.operands[1]})) return false;
  const std::int64_t columns = problem.operands[1].count();
  const cuda::AddBias bias{problem.results[0].count() / columns,
                           columns,
                           bind::type_of(problem.results[0].dtype),
                           bind::type_of(problem.operands[1].dtype),
                           nullptr,
                           nullptr,
                           nullptr};
  return bind::run(kernel, bias, bind::operands(&cuda::AddBias::x, &cuda::AddBias::bias),
                   bind::results(&cuda::AddBias::y), &cuda::Api::add_bias);
}

bool make_sum_leading(const DeviceProblem& problem, DeviceKernel& kernel, std::string& refusal) {
  if (!bind::narrow(refusal, {&problem.operands[0], &problem.results[0]})) return false;
  if (!problem.op.signature->operands[0].ends_with(problem.op.signature->results[0])) {
    refusal = "sums over other than leading dimensions";
    return false;
  }
  const std::int64_t columns = problem.results[0].count(), rows = problem.operands[0].count() / columns;
  const cuda::ColumnSums sums{
      rows,    columns, bind::type_of(problem.operands[0].dtype), bind::type_of(problem.results[0].dtype), nullptr,
      nullptr, nullptr};
  kernel.scratch_bytes = problem.context.api().column_sums_workspace(rows, columns);
  return bind::run(kernel, sums, bind::operands(&cuda::ColumnSums::x), bind::results(&cuda::ColumnSums::out),
                   &cuda::Api::column_sums);
}

bool make_cast(const DeviceProblem& problem, DeviceKernel& kernel, std::string& refusal) {
  if (!bind::narrow(refusal, {&problem.operands[0], &problem.results[0]})) return false;
  const cuda::Type from = bind::type_of(problem.operands[0].dtype), to = bind::type_of(problem.results[0].dtype);
  const std::int64_t count = problem.results[0].count(), bytes = problem.results[0].bytes();
  kernel.run = [=](const DeviceCall& call) {
    if (from == to) return bind::copy(call.context, call.results[0], call.operands[0], bytes);
    call.context.succeed(
        call.context.api().cast(call.operands[0], from, call.results[0], to, count, call.context.stream()));
  };
  return true;
}

bool kind_of(const DeviceProblem& problem, cuda::Activation& kind, std::string& refusal) {
  static constexpr std::pair<const char*, cuda::Activation> kinds[] = {{"silu", cuda::Activation::silu},
                                                                       {"gelu", cuda::Activation::gelu},
                                                                       {"gelu_tanh", cuda::Activation::gelu_tanh},
                                                                       {"relu", cuda::Activation::relu}};
  const std::string name = problem.op.attributes.text("kind");
  for (const auto& [known, value] : kinds)
    if (name == known) {
      kind = value;
      return true;
    }
  refusal = "no activation '" + name + "'";
  return false;
}

template <bool gated>
bool make_activation(const DeviceProblem& problem, DeviceKernel& kernel, std::string& refusal) {
  using Call = cuda::ElementwiseActivation;
  Call call{problem.results[0].count(), {}, bind::type_of(problem.results[0].dtype), nullptr, nullptr, nullptr};
  if (!bind::narrow(refusal, {&problem.results[0]}) || !kind_of(problem, call.activation, refusal)) return false;
  if constexpr (gated)
    return bind::run(kernel, call, bind::operands(&Call::gate, &Call::up), bind::results(&Call::y),
                     &cuda::Api::activation);
  else
    return bind::run(kernel, call, bind::operands(&Call::gate), bind::results(&Call::y), &cuda::Api::activation);
}

template <bool gated>
bool make_activation_gradient(const DeviceProblem& problem, DeviceKernel& kernel, std::string& refusal) {
  using Call = cuda::ElementwiseActivationGradient;
  Call call{};
  call.count = problem.results[0].count();
  call.type = bind::type_of(problem.results[0].dtype);
  if (!bind::narrow(refusal, {&problem.results[0]}) || !kind_of(problem, call.activation, refusal)) return false;
  if constexpr (gated)
    return bind::run(kernel, call, bind::operands(&Call::gate, &Call::up, &Call::dy),
                     bind::results(&Call::dgate, &Call::dup), &cuda::Api::activation_gradient);
  else
    return bind::run(kernel, call, bind::operands(&Call::gate, &Call::dy), bind::results(&Call::dgate),
                     &cuda::Api::activation_gradient);
}

const DeviceKernels add("add", bind::generic(make_add));
const DeviceKernels scale("scale", bind::generic(make_scale));
const DeviceKernels multiply("multiply", bind::generic(make_multiply));
const DeviceKernels constant("constant", bind::generic(make_constant));
const DeviceKernels add_bias("add_bias", bind::generic(make_add_bias));
const DeviceKernels sum_leading("sum_leading", bind::generic(make_sum_leading));
const DeviceKernels cast("cast", {{"vectors", make_cast}});
const DeviceKernels activation("activation", {{"vectors", make_activation<false>}});
const DeviceKernels activation_gradient("activation_gradient", {{"vectors", make_activation_gradient<false>}});
const DeviceKernels gated("gated_activation", {{"vectors", make_activation<true>}});
const DeviceKernels gated_gradient("gated_activation_gradient", {{"vectors", make_activation_gradient<true>}});

}  // namespace
}  // namespace longhaul
