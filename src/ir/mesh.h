// The device mesh: ranks arranged on named axes, the first axis major. Axis lists are ordered, major axis first.
#pragma once
#include <array>
#include <compare>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

namespace longhaul {

/// A set of mesh axes: bit i is axis i.
using AxisSet = std::uint32_t;

/// An ordered list of distinct mesh axes, major first. A dimension split over [a, b] is cut into size(a)·size(b)
/// chunks; the rank at coordinates (i, j) holds chunk i·size(b) + j.
class AxisList {
 public:
  static constexpr int capacity = 6;
  AxisList() = default;
  AxisList(std::initializer_list<int> axes) {
    for (int axis : axes) push_back(axis);
  }
  int size() const { return size_; }
  bool empty() const { return size_ == 0; }
  int operator[](int i) const { return axes_[static_cast<std::size_t>(i)]; }
  void push_back(int axis);
  AxisSet set() const {
    AxisSet bits = 0;
    for (int i = 0; i < size_; ++i) bits |= AxisSet{1} << axes_[static_cast<std::size_t>(i)];
    return bits;
  }
  bool contains(int axis) const { return (set() >> axis & 1) != 0; }
  /// The first n axes; the axes from i on; this list followed by another; this list without the axes of a set.
  AxisList first(int n) const;
  AxisList from(int i) const;
  AxisList then(const AxisList& more) const;
  AxisList without(AxisSet remove) const;
  AxisList only(AxisSet keep) const { return without(~keep); }
  bool operator==(const AxisList&) const = default;
  auto operator<=>(const AxisList&) const = default;

 private:
  std::array<std::uint8_t, capacity> axes_{};
  std::uint8_t size_ = 0;
};

struct MeshAxis {
  std::string name;
  int size = 1;
  bool operator==(const MeshAxis&) const = default;
};

class Mesh {
 public:
  Mesh() = default;
  /// Throws std::logic_error for more than AxisList::capacity axes, a size below 1, or a name used twice.
  explicit Mesh(std::vector<MeshAxis> axes);

  const std::vector<MeshAxis>& axes() const { return axes_; }
  int world() const { return world_; }
  /// The axis of a name, or -1.
  int find(std::string_view name) const;
  int size(int axis) const { return axes_[static_cast<std::size_t>(axis)].size; }
  /// The coordinate of a rank on an axis.
  int coordinate(int rank, int axis) const { return rank / stride_[static_cast<std::size_t>(axis)] % size(axis); }
  /// The number of ranks that a list or set of axes spans.
  int count(const AxisList& axes) const;
  int count(AxisSet axes) const;
  /// The position of a rank along an ordered list of axes: the chunk that it holds.
  int index(const AxisList& axes, int rank) const;
  /// The ranks that differ from `rank` only on these axes, ordered by index(axes, ·).
  std::vector<int> group(const AxisList& axes, int rank) const;
  /// The axes of these names that have more than one rank, in this order; names that the mesh does not know are left
  /// out.
  AxisList axes(const std::vector<std::string>& names) const;
  /// Those of the axes that have more than one rank, in order.
  AxisList live(const AxisList& axes) const;
  /// All axes with more than one rank, in mesh order.
  AxisList live() const;
  /// "a.b" for axes a and b; "-" for an empty list.
  std::string text(const AxisList& axes) const;
  /// "a=2, b=4"; axes of size 1 are left out.
  std::string text() const;
  bool operator==(const Mesh& other) const { return axes_ == other.axes_; }

 private:
  std::vector<MeshAxis> axes_;
  std::vector<int> stride_;
  int world_ = 1;
};

}  // namespace longhaul
