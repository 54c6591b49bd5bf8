// Gated MLP activation (arXiv 2002.05202): y = f(gate) · up; attribute kind: silu, gelu, gelu_tanh, relu.
#include "ir/builder.h"

namespace longhaul {
namespace {

std::vector<ValueId> gradient(Builder& builder, const Op& op, const std::vector<ValueId>& result_gradients) {
  return builder.emit("gated_activation_gradient", {op.operands[0], op.operands[1], result_gradients[0]},
                      op.attributes);
}

const OpRegistration gated_activation({.name = "gated_activation",
                                       .signature = "*,*->*",
                                       .pointwise = true,
                                       .gradient = gradient,
                                       .in_place = {{0, 0}, {0, 1}}});
// gate, up, dy -> dgate, dup
const OpRegistration gated_activation_gradient(
    {.name = "gated_activation_gradient", .signature = "*,*,*->*,*", .pointwise = true, .in_place = {{0, 0}, {1, 1}}});

}  // namespace
}  // namespace longhaul
