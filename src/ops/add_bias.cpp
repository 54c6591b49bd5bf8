// A bias over the last dimensions; its gradient is a sum over the leading ones.
#include "ir/builder.h"

namespace longhaul {
namespace {

std::vector<ValueId> gradient(Builder& builder, const Op& op, const std::vector<ValueId>& result_gradients) {
  const Signature& s = *op.signature;
  return {result_gradients[0],
          builder.one(
              "sum_leading", {result_gradients[0]}, {},
              {.signature = s.results[0] + "->" + s.operands[1], .result_shapes = {}, .result_types = {}, .name = ""})};
}

// x, bias (its letters are x's last ones): "bshd,hd->bshd". Not linear: a bias added to a partial sum would count once
// a rank.
const OpRegistration add_bias({.name = "add_bias", .signature = "", .gradient = gradient, .in_place = {{0, 0}}});
// "bshd->hd"
const OpRegistration sum_leading({.name = "sum_leading", .signature = "", .linear = true});

}  // namespace
}  // namespace longhaul
