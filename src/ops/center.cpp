// A row without its mean: y = x − mean(x) over the last dimension. It is its own transpose, hence its own gradient.
#include "ir/builder.h"

namespace longhaul {
namespace {

std::vector<ValueId> gradient(Builder& builder, const Op&, const std::vector<ValueId>& result_gradients) {
  return {builder.one("center", {result_gradients[0]})};
}

// x [..., d] -> [..., d]
const OpRegistration center({.name = "center",
                             .signature = "...d->...d",
                             .whole = "d",
                             .linear = true,
                             .gradient = gradient,
                             .in_place = {{0, 0}}});

}  // namespace
}  // namespace longhaul
