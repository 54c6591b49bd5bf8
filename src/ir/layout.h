// How ranks hold a value. The value itself always means its whole (global) tensor; a layout never changes what is
// computed.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "ir/mesh.h"

namespace longhaul {

using Shape = std::vector<std::int64_t>;
/// Number of elements; 1 for a scalar.
std::int64_t element_count(const Shape& shape);

/// One dimension: the ordered axes it is split over and by how many chunks the assignment is rotated: with rotation r a
/// rank at index i holds chunk (i − r) mod n. Chunks are ceil(size / n) long, the last ones padded or empty.
struct DimensionLayout {
  AxisList axes;
  int rotation = 0;
  bool operator==(const DimensionLayout&) const = default;
};

/// Either splits of dimensions, or `flat`: a split of all elements in row-major order into equal chunks of
/// ceil(elements / n), padded (how ZeRO shards); with `flat_block` above 1 of whole blocks of so many elements,
/// ceil(blocks / n) a chunk. `partial`: the axes over which the value is the sum of what the ranks
/// hold.
struct Layout {
  std::vector<DimensionLayout> dimensions;
  AxisList flat;
  AxisSet partial = 0;
  std::int64_t flat_block = 1;

  /// Every rank holds all of a tensor of this many dimensions.
  static Layout whole(std::size_t dimensions) { return {std::vector<DimensionLayout>(dimensions), {}, 0}; }
  bool is_whole() const;
  /// The axes that split it, in any way.
  AxisSet split() const;
  /// Split flat over these axes, in whole blocks; or no longer.
  void set_flat(const AxisList& axes, std::int64_t block) {
    flat = axes;
    flat_block = axes.empty() ? 1 : block;
  }
  bool operator==(const Layout&) const = default;

  /// "[a, b.c+1, -]" for axes a, b, c; then "flat(a)", or "flat(a by 256)", and "sum(a.c)" where they apply.
  std::string text(const Mesh& mesh) const;
};

/// The shape that one rank stores: chunk sizes rounded up; one dimension for a flat layout.
Shape local_shape(const Shape& global, const Layout& layout, const Mesh& mesh);
/// Product of local_shape.
std::int64_t local_count(const Shape& global, const Layout& layout, const Mesh& mesh);

}  // namespace longhaul
