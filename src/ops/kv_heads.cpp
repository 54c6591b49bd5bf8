// KV heads repeated so that they divide by the ranks over which heads are split, and the sum that undoes it in the
// backward pass.
#include "ir/builder.h"

namespace longhaul {
namespace {

// [b, t, g, d] -> [b, t, h, d]: head h is KV head h / (heads / kv_heads)
const OpRegistration expand_heads({.name = "expand_heads", .signature = "btgd->bthd", .whole = "gh", .linear = true});
// [b, t, h, d] -> [b, t, g, d]: sums the copies
const OpRegistration reduce_heads({.name = "reduce_heads", .signature = "bthd->btgd", .whole = "gh", .linear = true});

}  // namespace
}  // namespace longhaul
