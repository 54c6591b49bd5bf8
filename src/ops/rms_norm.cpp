// Root-mean-square norm over the last dimension (arXiv 1910.07467): y = x / sqrt(mean(x²) + epsilon) · w.
#include "ir/builder.h"

namespace longhaul {
namespace {

std::vector<ValueId> gradient(Builder& builder, const Op& op, const std::vector<ValueId>& result_gradients) {
  return builder.emit("rms_norm_gradient", {op.operands[0], op.operands[1], result_gradients[0]}, op.attributes);
}

// x [..., d], weight [d] -> [..., d]; attribute epsilon
const OpRegistration rms_norm({.name = "rms_norm", .signature = "...d,d->...d", .whole = "d", .gradient = gradient});
// x, weight, dy -> dx [..., d], dweight [d]
const OpRegistration rms_norm_gradient(
    {.name = "rms_norm_gradient", .signature = "...d,d,...d->...d,d", .whole = "d", .in_place = {{0, 2}}});

}  // namespace
}  // namespace longhaul
