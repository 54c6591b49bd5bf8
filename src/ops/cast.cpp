// Change of dtype. Pointwise and linear, so it stays on whichever side of a collective partition finds it.
#include "ir/builder.h"

namespace longhaul {
namespace {

std::vector<ValueId> gradient(Builder& builder, const Op& op, const std::vector<ValueId>& result_gradients) {
  const DType type = builder.graph()[op.operands[0]].dtype;
  return {builder.one("cast", {result_gradients[0]}, {},
                      {.signature = "", .result_shapes = {}, .result_types = {type}, .name = ""})};
}

// attribute for_reduction=1: the rounding that gradient_reduce_dtype asks for, the only one allowed on a partial sum
const OpRegistration cast(
    {.name = "cast", .signature = "*->*", .pointwise = true, .linear = true, .gradient = gradient});

}  // namespace
}  // namespace longhaul
