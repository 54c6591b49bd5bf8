// What a rank holds of a tensor: an account of layouts of the tests' own.
#pragma once
#include <cstdint>
#include <vector>

#include "ir/layout.h"

namespace longhaul::test {

/// The element of the global tensor (row-major) that each local element of a rank is, or -1 for padding.
inline std::vector<std::int64_t> elements_of(const Shape& shape, const Layout& layout, const Mesh& mesh, int rank) {
  std::vector<std::int64_t> elements;
  if (!layout.flat.empty()) {
    const std::int64_t n = element_count(shape), ranks = mesh.count(layout.flat), each = (n + ranks - 1) / ranks;
    for (std::int64_t i = 0; i < each; ++i) {
      const std::int64_t e = mesh.index(layout.flat, rank) * each + i;
      elements.push_back(e < n ? e : -1);
    }
    return elements;
  }
  elements = {0};
  for (std::size_t d = 0; d < shape.size(); ++d) {
    const AxisList& axes = layout.dimensions[d].axes;
    const std::int64_t ranks = mesh.count(axes), each = (shape[d] + ranks - 1) / ranks;
    const std::int64_t chunk = (mesh.index(axes, rank) - layout.dimensions[d].rotation + ranks) % ranks;
    std::vector<std::int64_t> more;
    for (std::int64_t before : elements)
      for (std::int64_t i = 0; i < each; ++i) {
        const std::int64_t x = chunk * each + i;
        more.push_back(before < 0 || x >= shape[d] ? -1 : before * shape[d] + x);
      }
    elements = more;
  }
  return elements;
}

/// The axes of a set, in mesh order.
inline AxisList list_of(AxisSet set, const Mesh& mesh) {
  AxisList list;
  for (int axis = 0; axis < static_cast<int>(mesh.axes().size()); ++axis)
    if (set >> axis & 1) list.push_back(axis);
  return list;
}

}  // namespace longhaul::test
