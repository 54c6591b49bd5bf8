// Plain activation: y = f(x); attribute kind: silu, gelu, gelu_tanh, relu.
#include "ir/builder.h"

namespace longhaul {
namespace {

std::vector<ValueId> gradient(Builder& builder, const Op& op, const std::vector<ValueId>& result_gradients) {
  return {builder.one("activation_gradient", {op.operands[0], result_gradients[0]}, op.attributes)};
}

const OpRegistration activation(
    {.name = "activation", .signature = "*->*", .pointwise = true, .gradient = gradient, .in_place = {{0, 0}}});
// x, dy -> dx
const OpRegistration activation_gradient(
    {.name = "activation_gradient", .signature = "*,*->*", .pointwise = true, .in_place = {{0, 1}, {0, 0}}});

}  // namespace
}  // namespace longhaul
