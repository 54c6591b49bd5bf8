// Sum of squares of a tensor, and the coefficient that clips a gradient to a global norm (as
// torch.nn.utils.clip_grad_norm_).
#include "ir/builder.h"

namespace longhaul {
namespace {

std::vector<DType> one_scalar(const Graph&, const Op&) {
  return {DType::float64};
}
std::vector<DType> two_scalars(const Graph&, const Op&) {
  return {DType::float64, DType::float64};
}

const OpRegistration sum_squares(
    {.name = "sum_squares", .signature = "*->", .pointwise = true, .result_types = one_scalar});
// total of squares -> min(1, max_norm / (norm + 1e-6)), norm; attribute max_norm (0: never clips)
const OpRegistration clip_coefficient({.name = "clip_coefficient", .signature = "->,", .result_types = two_scalars});

}  // namespace
}  // namespace longhaul
