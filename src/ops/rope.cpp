// Rotary position embedding (arXiv 2104.09864), half-split layout: pairs (x[i], x[i + r/2]) of the first r elements of
// a head are turned by position · inverse_frequency[i].
#include "ir/builder.h"

namespace longhaul {
namespace {

std::vector<ValueId> gradient(Builder& builder, const Op& op, const std::vector<ValueId>& result_gradients) {
  // The transpose of a rotation is the rotation by the negative angle; the table's scale is the same both ways.
  Attributes attributes = op.attributes;
  attributes.set("inverse", std::int64_t{!op.attributes.integer("inverse")});
  return {builder.one("rope", {result_gradients[0], op.operands[1]}, attributes), no_value};
}

std::vector<DType> table_type(const Graph&, const Op&) {
  return {DType::float64};
}

// position [b, s] int32 -> [b, s, r]: r/2 cosines, then r/2 sines, times `scale`. Attributes inverse_frequencies (r/2
// numbers), scale; growth and growth_length (0 and 1 when absent): a row is also multiplied by
// 1 + growth ln(1 + floor(position / growth_length)). Every layer of one kind shares a table.
const OpRegistration rope_table(
    {.name = "rope_table", .signature = "bs->bsr", .whole = "r", .result_types = table_type, .master_results = {0}});
// x [b, s, h, d], table [b, s, r] -> [b, s, h, d]; attribute inverse (0 or 1)
const OpRegistration rope(
    {.name = "rope", .signature = "bshd,bsr->bshd", .whole = "dr", .gradient = gradient, .in_place = {{0, 0}}});

}  // namespace
}  // namespace longhaul
