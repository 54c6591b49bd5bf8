#include "ir/mesh.h"

#include <algorithm>

#include "base/error.h"

namespace longhaul {

void AxisList::push_back(int axis) {
  LONGHAUL_CHECK(size_ < capacity && axis >= 0 && axis < 32 && !contains(axis), "axis {} cannot join a list of {}",
                 axis, size_);
  axes_[size_++] = static_cast<std::uint8_t>(axis);
}

AxisList AxisList::first(int n) const {
  AxisList list;
  for (int i = 0; i < std::min(n, size()); ++i) list.push_back((*this)[i]);
  return list;
}

AxisList AxisList::from(int begin) const {
  AxisList list;
  for (int i = begin; i < size(); ++i) list.push_back((*this)[i]);
  return list;
}

AxisList AxisList::then(const AxisList& more) const {
  AxisList list = *this;
  for (int i = 0; i < more.size(); ++i) list.push_back(more[i]);
  return list;
}

AxisList AxisList::without(AxisSet remove) const {
  AxisList list;
  for (int i = 0; i < size(); ++i)
    if (!(remove >> (*this)[i] & 1)) list.push_back((*this)[i]);
  return list;
}

Mesh::Mesh(std::vector<MeshAxis> axes) : axes_(std::move(axes)), stride_(axes_.size()) {
  LONGHAUL_CHECK(axes_.size() <= AxisList::capacity, "a mesh of {} axes", axes_.size());
  for (std::size_t i = axes_.size(); i-- > 0;) {
    LONGHAUL_CHECK(axes_[i].size >= 1, "mesh axis {} of size {}", axes_[i].name, axes_[i].size);
    LONGHAUL_CHECK(find(axes_[i].name) == static_cast<int>(i), "mesh axis {} named twice", axes_[i].name);
    stride_[i] = world_;
    world_ *= axes_[i].size;
  }
}

int Mesh::find(std::string_view name) const {
  for (std::size_t i = 0; i < axes_.size(); ++i)
    if (axes_[i].name == name) return static_cast<int>(i);
  return -1;
}

int Mesh::count(const AxisList& axes) const {
  int n = 1;
  for (int i = 0; i < axes.size(); ++i) n *= size(axes[i]);
  return n;
}

int Mesh::count(AxisSet axes) const {
  int n = 1;
  for (std::size_t i = 0; i < axes_.size(); ++i)
    if (axes >> i & 1) n *= axes_[i].size;
  return n;
}

int Mesh::index(const AxisList& axes, int rank) const {
  int n = 0;
  for (int i = 0; i < axes.size(); ++i) n = n * size(axes[i]) + coordinate(rank, axes[i]);
  return n;
}

std::vector<int> Mesh::group(const AxisList& axes, int rank) const {
  int base = rank;
  for (int i = 0; i < axes.size(); ++i) base -= coordinate(rank, axes[i]) * stride_[static_cast<std::size_t>(axes[i])];
  std::vector<int> ranks(static_cast<std::size_t>(count(axes)));
  for (std::size_t k = 0; k < ranks.size(); ++k) {
    int rest = static_cast<int>(k), member = base;
    for (int i = axes.size(); i-- > 0;) {
      member += rest % size(axes[i]) * stride_[static_cast<std::size_t>(axes[i])];
      rest /= size(axes[i]);
    }
    ranks[k] = member;
  }
  return ranks;
}

AxisList Mesh::axes(const std::vector<std::string>& names) const {
  AxisList list;
  for (const auto& name : names)
    if (const int axis = find(name); axis >= 0 && size(axis) > 1) list.push_back(axis);
  return list;
}

AxisList Mesh::live(const AxisList& axes) const {
  AxisList list;
  for (int i = 0; i < axes.size(); ++i)
    if (size(axes[i]) > 1) list.push_back(axes[i]);
  return list;
}

AxisList Mesh::live() const {
  AxisList list;
  for (std::size_t i = 0; i < axes_.size(); ++i)
    if (axes_[i].size > 1) list.push_back(static_cast<int>(i));
  return list;
}

std::string Mesh::text(const AxisList& axes) const {
  if (axes.empty()) return "-";
  std::string text;
  for (int i = 0; i < axes.size(); ++i) text += (i ? "." : "") + axes_[static_cast<std::size_t>(axes[i])].name;
  return text;
}

std::string Mesh::text() const {
  std::string text;
  for (const auto& axis : axes_)
    if (axis.size > 1) text += fmt::format("{}{}={}", text.empty() ? "" : ", ", axis.name, axis.size);
  return text;
}

}  // namespace longhaul
