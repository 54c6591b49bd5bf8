// Changes of layout: reshard, and the collectives that lower_reshards makes of it. All are the identity on the global
// value. A collective may carry several tensors, each to the result of its place; all of them move alike. Attributes of
// a collective: axes; dimension (all_gather, reduce_scatter, slice, shift, all_to_all; absent for flat layouts); split
// (all_to_all); by (shift).
// A collective in two halves (Half in ir/op_definition.h), as the pass overlap makes them:
//   x0, y0 = all_gather.start(a, b);  x, y = all_gather.wait(x0, y0, a, b)
// Three links take their turns: weights that are gathered, sums of gradients, exchanges of activations.
#include "ir/builder.h"

namespace longhaul {
namespace {

OpDefinition communication(const char* name) {
  return {.name = name, .signature = "*&->*&", .communication = true};
}

OpDefinition half_of(const std::string& name, Half half, const char* link) {
  return {.name = name + (half == Half::start ? ".start" : ".wait"),
          .signature = half == Half::start ? "*&->*&" : "*&,*&->*&",
          .communication = true,
          .half = half,
          .queue = link};
}

struct Halves {
  Halves(const char* name, const char* link)
      : start(half_of(name, Half::start, link)), wait(half_of(name, Half::wait, link)) {}
  OpRegistration start, wait;
};

const OpRegistration reshard(communication("reshard"));
const OpRegistration all_gather(communication("all_gather"));
const OpRegistration reduce_scatter(communication("reduce_scatter"));
const OpRegistration all_reduce(communication("all_reduce"));
const OpRegistration all_to_all(communication("all_to_all"));
const OpRegistration slice(communication("slice"));
const OpRegistration shift(communication("shift"));
const Halves all_gather_halves("all_gather", "gather");
const Halves reduce_scatter_halves("reduce_scatter", "reduce");
const Halves all_reduce_halves("all_reduce", "reduce");
const Halves all_to_all_halves("all_to_all", "exchange");
const Halves shift_halves("shift", "exchange");

}  // namespace
}  // namespace longhaul
