// Multiplication by a constant (attribute factor), and of two scalars.
#include "ir/builder.h"

namespace longhaul {
namespace {

std::vector<ValueId> scale_gradient(Builder& builder, const Op& op, const std::vector<ValueId>& result_gradients) {
  return {builder.one("scale", {result_gradients[0]}, op.attributes)};
}

std::vector<ValueId> multiply_gradient(Builder& builder, const Op& op, const std::vector<ValueId>& result_gradients) {
  return {builder.one("multiply", {result_gradients[0], op.operands[1]}), no_value};
}

const OpRegistration scale({.name = "scale",
                            .signature = "*->*",
                            .pointwise = true,
                            .linear = true,
                            .gradient = scale_gradient,
                            .in_place = {{0, 0}}});
// Scalars; the gradient goes to the first operand only (the second is 1 / valid tokens).
const OpRegistration multiply({.name = "multiply", .signature = ",->", .gradient = multiply_gradient});
// A scalar; attribute value.
const OpRegistration constant({.name = "constant", .signature = "->"});

}  // namespace
}  // namespace longhaul
