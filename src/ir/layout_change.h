// From one layout to another by collectives: what lower_reshards emits and what the verifier holds collectives against.
#pragma once
#include <optional>
#include <string_view>

#include "ir/layout.h"

namespace longhaul {

/// One collective. On the axes' group:
///   all_gather      undoes the minor axes of `dimension`'s split (−1: of the flat split);
///   reduce_scatter  sums over the axes and splits `dimension` by them, as its new minor axes (−1: flat);
///   all_reduce      sums over the axes;
///   all_to_all      takes minor axes from `dimension`'s split and makes them the minor axes of `split`'s;
///   slice           keeps this rank's chunk: no communication (−1: flat);
///   shift           rotates the chunks of `dimension` by `by` ranks.
struct LayoutChange {
  std::string_view op;
  AxisList axes;
  int dimension = -1;
  int split = -1;
  int by = 0;
  Layout after;
};

/// The first collective on the way, or nothing when the layouts are equal. Throws Error when there is no way (a partial
/// sum cannot be created). Chunks that are padded (a size that does not divide) are only made straight from whole, and
/// only gathered all at once.
std::optional<LayoutChange> next_layout_change(const Layout& from, const Layout& to, const Shape& shape,
                                               const Mesh& mesh);

}  // namespace longhaul
