// Changes of layout: reshard, and the collectives that lower_reshards makes of it. All are the identity on the global
// value. A collective may carry several tensors, each to the result of its place; all of them move alike. Attributes of
// a collective: axes; dimension (all_gather, reduce_scatter, slice, shift, all_to_all; absent for flat layouts); split
// (all_to_all); by (shift).
#include "ir/builder.h"

namespace longhaul {
namespace {

OpDefinition communication(const char* name) {
  return {.name = name, .signature = "*&->*&", .communication = true};
}

const OpRegistration reshard(communication("reshard"));
const OpRegistration all_gather(communication("all_gather"));
const OpRegistration reduce_scatter(communication("reduce_scatter"));
const OpRegistration all_reduce(communication("all_reduce"));
const OpRegistration all_to_all(communication("all_to_all"));
const OpRegistration slice(communication("slice"));
const OpRegistration shift(communication("shift"));

}  // namespace
}  // namespace longhaul
