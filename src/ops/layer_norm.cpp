// Layer norm over the last dimension (arXiv 1607.06450): y = (x − mean) / sqrt(variance + epsilon) · w + b, biased
// variance.
#include "ir/builder.h"

namespace longhaul {
namespace {

std::vector<ValueId> gradient(Builder& builder, const Op& op, const std::vector<ValueId>& result_gradients) {
  return builder.emit("layer_norm_gradient", {op.operands[0], op.operands[1], result_gradients[0]}, op.attributes);
}

// x [..., d], weight [d], bias [d] -> [..., d]; attribute epsilon
const OpRegistration layer_norm(
    {.name = "layer_norm", .signature = "...d,d,d->...d", .whole = "d", .gradient = gradient});
// x, weight, dy -> dx [..., d], dweight [d], dbias [d]
const OpRegistration layer_norm_gradient(
    {.name = "layer_norm_gradient", .signature = "...d,d,...d->...d,d,d", .whole = "d", .in_place = {{0, 2}}});

}  // namespace
}  // namespace longhaul
