#include "ir/layout_change.h"

#include "base/error.h"

namespace longhaul {
namespace {

int common_prefix(const AxisList& a, const AxisList& b) {
  int n = 0;
  while (n < a.size() && n < b.size() && a[n] == b[n]) ++n;
  return n;
}

bool is_prefix(const AxisList& prefix, const AxisList& list) {
  return common_prefix(prefix, list) == prefix.size();
}

// The state of one search for a step: shorthands over from/to.
class Search {
 public:
  Search(const Layout& from, const Layout& to, const Shape& shape, const Mesh& mesh)
      : from_(from), to_(to), shape_(shape), mesh_(mesh) {}

  std::optional<LayoutChange> run() const {
    if (from_ == to_) return std::nullopt;
    if (to_.partial & ~from_.partial)
      fail("no collective makes the partial sum of {} from {}", to_.text(mesh_), from_.text(mesh_));
    if (auto step = shift()) return step;
    if (const AxisSet sum = from_.partial & ~to_.partial) return reduce(sum);
    if (!from_.flat.empty() && (from_.flat != to_.flat || from_.flat_block != to_.flat_block)) {
      LayoutChange step = make("all_gather", from_.flat);
      step.after.set_flat({}, 1);
      return step;
    }
    if (auto step = all_to_all()) return step;
    if (auto step = slice()) return step;
    if (auto step = gather()) return step;
    if (!to_.flat.empty() && from_.flat.empty()) {
      LayoutChange step = make("slice", to_.flat);
      step.after.set_flat(to_.flat, to_.flat_block);
      return step;
    }
    fail("no collectives lead from {} to {}", from_.text(mesh_), to_.text(mesh_));
  }

 private:
  int dimensions() const { return static_cast<int>(from_.dimensions.size()); }
  const AxisList& have(int d) const { return from_.dimensions[static_cast<std::size_t>(d)].axes; }
  const AxisList& want(int d) const { return to_.dimensions[static_cast<std::size_t>(d)].axes; }
  bool divides(int d, const AxisList& axes) const {
    return shape_[static_cast<std::size_t>(d)] % mesh_.count(axes) == 0;
  }
  // A split may be made when its chunks are full, or at once from whole to the final one.
  bool can_split(int d, const AxisList& result) const {
    return divides(d, result) || (have(d).empty() && result == want(d));
  }

  LayoutChange make(std::string_view op, const AxisList& axes, int dimension = -1) const {
    return {op, axes, dimension, -1, 0, from_};
  }
  static AxisList& axes_of(LayoutChange& step, int d) {
    return step.after.dimensions[static_cast<std::size_t>(d)].axes;
  }

  std::optional<LayoutChange> shift() const {
    for (int d = 0; d < dimensions(); ++d) {
      const auto i = static_cast<std::size_t>(d);
      const int target = have(d) == want(d) ? to_.dimensions[i].rotation : 0;
      const int rotation = from_.dimensions[i].rotation, n = mesh_.count(have(d));
      if (have(d).empty() || rotation == target) continue;
      LayoutChange step = make("shift", have(d), d);
      step.by = ((target - rotation) % n + n) % n;
      step.after.dimensions[i].rotation = target;
      return step;
    }
    return std::nullopt;
  }

  LayoutChange reduce(AxisSet sum) const {
    if (!to_.flat.empty() && from_.flat.empty() && !(to_.flat.set() & ~sum) && from_.split() == 0) {
      LayoutChange step = make("reduce_scatter", to_.flat);
      step.after.partial &= ~to_.flat.set();
      step.after.set_flat(to_.flat, to_.flat_block);
      return step;
    }
    for (int d = 0; d < dimensions() && from_.flat.empty(); ++d) {
      if (!is_prefix(have(d), want(d))) continue;
      AxisList gain;
      const AxisList rest = want(d).from(have(d).size());
      while (gain.size() < rest.size() && (sum >> rest[gain.size()] & 1)) gain.push_back(rest[gain.size()]);
      if (gain.empty() || !can_split(d, have(d).then(gain))) continue;
      LayoutChange step = make("reduce_scatter", gain, d);
      step.after.partial &= ~gain.set();
      axes_of(step, d) = have(d).then(gain);
      return step;
    }
    AxisList axes;
    for (int axis = 0; axis < static_cast<int>(mesh_.axes().size()); ++axis)
      if (sum >> axis & 1) axes.push_back(axis);
    LayoutChange step = make("all_reduce", axes);
    step.after.partial &= ~sum;
    return step;
  }

  std::optional<LayoutChange> all_to_all() const {
    for (int d = 0; d < dimensions(); ++d)
      for (int e = 0; e < dimensions(); ++e) {
        if (d == e || !is_prefix(have(e), want(e)) || !divides(d, have(d))) continue;
        const int kept = common_prefix(have(d), want(d));
        const AxisList wanted = want(e).from(have(e).size());
        for (int length = std::min(have(d).size() - kept, wanted.size()); length > 0; --length) {
          const AxisList moved = have(d).from(have(d).size() - length);
          if (moved != wanted.first(length) || !divides(e, have(e).then(moved))) continue;
          LayoutChange step = make("all_to_all", moved, d);
          step.split = e;
          axes_of(step, d) = have(d).first(have(d).size() - length);
          axes_of(step, e) = have(e).then(moved);
          return step;
        }
      }
    return std::nullopt;
  }

  std::optional<LayoutChange> slice() const {
    if (!from_.flat.empty()) return std::nullopt;
    const AxisSet used = from_.split();
    for (int d = 0; d < dimensions(); ++d) {
      if (!is_prefix(have(d), want(d))) continue;
      const AxisList rest = want(d).from(have(d).size());
      AxisList gain;
      while (gain.size() < rest.size() && !(used >> rest[gain.size()] & 1)) gain.push_back(rest[gain.size()]);
      if (gain.empty() || !can_split(d, have(d).then(gain))) continue;
      LayoutChange step = make("slice", gain, d);
      axes_of(step, d) = have(d).then(gain);
      return step;
    }
    return std::nullopt;
  }

  // Undo what stands in the way: the part of a split that the target lacks; all of it when chunks are padded. As a last
  // resort (a split that can only be made from whole) any split that differs.
  std::optional<LayoutChange> gather() const {
    for (const bool last_resort : {false, true})
      for (int d = 0; d < dimensions(); ++d) {
        if (have(d).empty() || have(d) == want(d) || (!last_resort && is_prefix(have(d), want(d)))) continue;
        const int kept = divides(d, have(d)) && !last_resort ? common_prefix(have(d), want(d)) : 0;
        LayoutChange step = make("all_gather", have(d).from(kept), d);
        axes_of(step, d) = have(d).first(kept);
        return step;
      }
    return std::nullopt;
  }

  const Layout& from_;
  const Layout& to_;
  const Shape& shape_;
  const Mesh& mesh_;
};

}  // namespace

std::optional<LayoutChange> next_layout_change(const Layout& from, const Layout& to, const Shape& shape,
                                               const Mesh& mesh) {
  return Search(from, to, shape, mesh).run();
}

}  // namespace longhaul
