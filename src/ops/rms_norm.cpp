// Root-mean-square norm over the last dimension (arXiv 1910.07467): y = x / sqrt(mean(x²) + epsilon) · (w + offset).
// rms_norm_heads is the same over the last two dimensions together: all heads of a token.
#include "ir/builder.h"

namespace longhaul {
namespace {

std::vector<ValueId> gradient(Builder& builder, const Op& op, const std::vector<ValueId>& result_gradients) {
  return builder.emit("rms_norm_gradient", {op.operands[0], op.operands[1], result_gradients[0]}, op.attributes);
}

std::vector<ValueId> heads_gradient(Builder& builder, const Op& op, const std::vector<ValueId>& result_gradients) {
  return builder.emit("rms_norm_heads_gradient", {op.operands[0], op.operands[1], result_gradients[0]}, op.attributes);
}

// x [..., d], weight [d] -> [..., d]; attributes epsilon, weight_offset (0 when absent)
const OpRegistration rms_norm({.name = "rms_norm", .signature = "...d,d->...d", .whole = "d", .gradient = gradient});
// x, weight, dy -> dx [..., d], dweight [d]
const OpRegistration rms_norm_gradient(
    {.name = "rms_norm_gradient", .signature = "...d,d,...d->...d,d", .whole = "d", .in_place = {{0, 2}}});
const OpRegistration rms_norm_heads(
    {.name = "rms_norm_heads", .signature = "bshd,hd->bshd", .whole = "hd", .gradient = heads_gradient});
const OpRegistration rms_norm_heads_gradient(
    {.name = "rms_norm_heads_gradient", .signature = "bshd,hd,bshd->bshd,hd", .whole = "hd", .in_place = {{0, 2}}});

}  // namespace
}  // namespace longhaul
