#include "ir/layout.h"

#include "base/error.h"

namespace longhaul {

std::int64_t element_count(const Shape& shape) {
  std::int64_t n = 1;
  for (std::int64_t size : shape) n *= size;
  return n;
}

bool Layout::is_whole() const {
  return split() == 0 && partial == 0;
}

AxisSet Layout::split() const {
  AxisSet axes = flat.set();
  for (const auto& dimension : dimensions) axes |= dimension.axes.set();
  return axes;
}

std::string Layout::text(const Mesh& mesh) const {
  std::string text = "[";
  for (std::size_t i = 0; i < dimensions.size(); ++i) {
    text += (i ? ", " : "") + mesh.text(dimensions[i].axes);
    if (dimensions[i].rotation) text += fmt::format("+{}", dimensions[i].rotation);
  }
  text += "]";
  if (!flat.empty())
    text += "flat(" + mesh.text(flat) + (flat_block > 1 ? fmt::format(" by {})", flat_block) : std::string(")"));
  if (partial) {
    AxisList axes;
    for (int axis = 0; axis < static_cast<int>(mesh.axes().size()); ++axis)
      if (partial >> axis & 1) axes.push_back(axis);
    text += "sum(" + mesh.text(axes) + ")";
  }
  return text;
}

namespace {

std::int64_t flat_chunk(const Shape& global, const Layout& layout, const Mesh& mesh) {
  const std::int64_t ranks = mesh.count(layout.flat),
                     blocks = (element_count(global) + layout.flat_block - 1) / layout.flat_block;
  return (blocks + ranks - 1) / ranks * layout.flat_block;
}

}  // namespace

Shape local_shape(const Shape& global, const Layout& layout, const Mesh& mesh) {
  if (!layout.flat.empty()) return {flat_chunk(global, layout, mesh)};
  Shape local = global;
  for (std::size_t i = 0; i < local.size(); ++i) {
    const std::int64_t ranks = mesh.count(layout.dimensions[i].axes);
    local[i] = (local[i] + ranks - 1) / ranks;
  }
  return local;
}

std::int64_t local_count(const Shape& global, const Layout& layout, const Mesh& mesh) {
  if (!layout.flat.empty()) return flat_chunk(global, layout, mesh);
  std::int64_t n = 1;
  for (std::size_t i = 0; i < global.size(); ++i) {
    const std::int64_t ranks = mesh.count(layout.dimensions[i].axes);
    n *= (global[i] + ranks - 1) / ranks;
  }
  return n;
}

}  // namespace longhaul
