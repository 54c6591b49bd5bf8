// tile_mlp: the part of a layer that is as wide as its MLP goes through its rows in tiles, so that gate, up and their
// gradients exist for the rows of one tile at a time: in the forward pass where nothing wide is kept, in the backward
// pass from what is kept or made again. A row's numbers depend on no other row, and weight gradients add up tile after
// tile in place; tiles begin at multiples of Schedule::tile_rows, where the kernels' own sums begin anew, so that no
// bit changes. Results take the place of an operand that is read no more, rows after rows.
//
// Left whole are layers whose sums over rows are no products (biases, backward), and backward where the MLP's result is
// normalised: its gradient waits for all rows of it. A layer has so many tiles that what is wide in one of them takes
// no more than one value of the residual stream. Only where memory asks for it (tiles_mlp), and where a rank holds a
// single sequence: sums run over sequences first.
#include <algorithm>
#include <array>
#include <map>
#include <set>

#include "base/error.h"
#include "ir/rewrite.h"
#include "passes/pass.h"

namespace longhaul::passes {
namespace {

std::size_t at(std::int32_t i) {
  return static_cast<std::size_t>(i);
}

bool is_activation(const Op& op) {
  constexpr std::array names{"activation", "gated_activation", "activation_gradient", "gated_activation_gradient"};
  return std::any_of(names.begin(), names.end(), [&](const char* name) { return op.is(name); });
}
bool is_product(const Op& op) {
  return op.is("einsum") || op.is("einsum_add");
}

struct Tile {
  std::int64_t from, rows;  // of a rank
};

// The ops of one layer and phase that are unrolled, and what they need of others and give to them.
struct Region {
  std::vector<std::size_t> ops;  // ascending
  std::set<ValueId> made;
  std::set<ValueId> wide;
  std::vector<ValueId> row_inputs, row_outputs;
  std::map<ValueId, ValueId> host;  // by output: the input whose rows it takes
  std::vector<Tile> tiles;
};

class Tiling {
 public:
  Tiling(Graph& graph, const Schedule& schedule)
      : graph_(graph),
        schedule_(schedule),
        builder_(graph, "tile_mlp"),
        use_(uses(graph)),
        is_output_(graph.values.size(), 0) {
    builder_.place_results(true);
    for (const auto& output : graph.outputs) is_output_[at(output.value)] = 1;
  }

  void run() {
    find_regions();
    if (!regions_.empty()) unroll_all();
  }

 private:
  // ---- what to tile

  void find_regions() {
    maker_ = definitions(graph_);
    std::map<std::pair<std::int32_t, Phase>, std::vector<std::size_t>> parts;
    for (std::size_t i = 0; i < graph_.ops.size(); ++i)
      if (const Op& op = graph_.ops[i]; op.layer >= 0) parts[{op.layer, op.phase}].push_back(i);
    region_of_.assign(graph_.ops.size(), -1);
    std::vector<Region> found;
    for (const auto& [key, ops] : parts)
      if (Region region; find(ops, region)) found.push_back(std::move(region));
    std::sort(found.begin(), found.end(), [](const Region& a, const Region& b) { return a.ops[0] < b.ops[0]; });
    std::size_t end = 0;  // what stands between a region's ops is in no other's
    for (Region& region : found) {
      if (region.ops[0] < end) continue;
      end = region.ops.back() + 1;
      for (const std::size_t i : region.ops) region_of_[i] = static_cast<int>(regions_.size());
      regions_.push_back(std::move(region));
    }
  }

  bool find(const std::vector<std::size_t>& ops, Region& region) const {
    find_wide(ops, region.wide);
    if (region.wide.empty()) return false;
    std::set<std::size_t> members;
    for (const std::size_t i : ops)
      if (touches(graph_.ops[i], region.wide)) members.insert(i);
    // A wide value that others read has to exist whole.
    for (const std::size_t i : members) {
      if (!row_by_row(graph_.ops[i]) && !sums_rows(graph_.ops[i])) return false;
      for (const ValueId result : graph_.ops[i].results)
        if (region.wide.count(result) && !only_read_by(result, members)) return false;
    }
    add_makers(ops, members);
    region.ops.assign(members.begin(), members.end());
    return find_ends(region) && !waits_for_itself(region) && cut(region);
  }

  // Whether something between the region's ops needs what they make whole before others of them can run: where what an
  // MLP gives is normalised, that norm's gradient.
  bool waits_for_itself(const Region& region) const {
    std::set<ValueId> late;  // made from what the region makes, by others
    const std::set<std::size_t> members(region.ops.begin(), region.ops.end());
    for (std::size_t i = region.ops.front(); i <= region.ops.back(); ++i) {
      const Op& op = graph_.ops[i];
      const bool member = members.count(i) != 0;
      for (const ValueId operand : op.operands) {
        if (member && late.count(operand)) return true;
        if (!member && (late.count(operand) || region.made.count(operand)))
          late.insert(op.results.begin(), op.results.end());
      }
    }
    return false;
  }

  // Activations' operands and results, and what is made of them element by element.
  void find_wide(const std::vector<std::size_t>& ops, std::set<ValueId>& wide) const {
    const auto add = [&](const Op& op) {
      for (const auto* values : {&op.operands, &op.results})
        for (const ValueId value : *values)
          if (graph_[value].shape.size() == 3) wide.insert(value);
    };
    for (const std::size_t i : ops)
      if (is_activation(graph_.ops[i])) add(graph_.ops[i]);
    for (std::size_t before = 0; before != wide.size();) {
      before = wide.size();
      for (const std::size_t i : ops)
        if (const Op& op = graph_.ops[i]; !is_product(op) && touches(op, wide)) add(op);
    }
  }

  static bool touches(const Op& op, const std::set<ValueId>& values) {
    const auto in = [&](ValueId value) { return values.count(value) != 0; };
    return std::any_of(op.operands.begin(), op.operands.end(), in) ||
           std::any_of(op.results.begin(), op.results.end(), in);
  }

  bool only_read_by(ValueId value, const std::set<std::size_t>& ops) const {
    return !is_output_[at(value)] && std::all_of(use_[at(value)].begin(), use_[at(value)].end(),
                                                 [&](std::int32_t user) { return ops.count(at(user)) != 0; });
  }

  // Rows are dimensions 0 and 1, sequences and their tokens: the letters that the first operand has there.
  static bool has_rows(const Op& op, const std::string& letters) {
    const std::string& first = op.signature->operands[0];
    return letters.size() > 1 && letters[0] == first[0] && letters[1] == first[1];
  }
  static bool has_part_of_rows(const Op& op, const std::string& letters) {
    const std::string& first = op.signature->operands[0];
    return letters.find(first[0]) != std::string::npos || letters.find(first[1]) != std::string::npos;
  }
  bool fits(const Op& op) const {
    if (op.definition->communication || op.definition->factors || !op.definition->recomputable ||
        !op.definition->only_marked.empty() || op.signature->operands.empty() || op.signature->operands[0].size() < 2)
      return false;
    for (const std::string& letters : op.signature->operands)
      if (!has_rows(op, letters) && has_part_of_rows(op, letters)) return false;
    return true;
  }
  // A row of each result depends on one row of those operands that have any.
  bool row_by_row(const Op& op) const {
    if (!fits(op)) return false;
    const std::string& first = op.signature->operands[0];
    if (op.definition->whole.find(first[0]) != std::string::npos ||
        op.definition->whole.find(first[1]) != std::string::npos)
      return false;
    return std::all_of(op.signature->results.begin(), op.signature->results.end(),
                       [&](const std::string& letters) { return has_rows(op, letters); });
  }
  bool sums_rows(const Op& op) const {
    return fits(op) && is_product(op) && has_rows(op, op.signature->operands[1]) &&
           !has_part_of_rows(op, op.signature->results[0]);
  }

  // What only the region reads and costs next to nothing is made in its tiles: the norm.
  void add_makers(const std::vector<std::size_t>& ops, std::set<std::size_t>& members) const {
    for (auto i = ops.rbegin(); i != ops.rend(); ++i) {
      const Op& op = graph_.ops[*i];
      if (members.count(*i) || is_product(op) || !row_by_row(op)) continue;
      bool feeds = false, only = true;
      for (const ValueId result : op.results) {
        feeds |= !use_[at(result)].empty();
        only &= only_read_by(result, members);
      }
      if (feeds && only) members.insert(*i);
    }
  }

  bool find_ends(Region& region) const {
    const std::set<std::size_t> members(region.ops.begin(), region.ops.end());
    for (const std::size_t i : region.ops)
      for (const ValueId result : graph_.ops[i].results) region.made.insert(result);
    std::set<ValueId> inputs;
    for (const std::size_t i : region.ops) {
      const Op& op = graph_.ops[i];
      for (std::size_t k = 0; k < op.operands.size(); ++k)
        if (has_rows(op, op.signature->operands[k]) && !region.made.count(op.operands[k]) &&
            inputs.insert(op.operands[k]).second)
          region.row_inputs.push_back(op.operands[k]);
      if (row_by_row(op))
        for (const ValueId result : op.results)
          if (!only_read_by(result, members)) region.row_outputs.push_back(result);
    }
    // All rows are those of one layout, and none is a part of a sum.
    const auto same_rows = [&](ValueId value) {
      const Layout &layout = graph_[value].layout, &first = graph_[*region.wide.begin()].layout;
      return layout.flat.empty() && !layout.partial && layout.dimensions[0] == first.dimensions[0] &&
             layout.dimensions[1] == first.dimensions[1];
    };
    for (const std::size_t i : region.ops) {
      const Op& op = graph_.ops[i];
      for (std::size_t k = 0; k < op.operands.size(); ++k)
        if (has_rows(op, op.signature->operands[k]) && !same_rows(op.operands[k])) return false;
      if (row_by_row(op) && !std::all_of(op.results.begin(), op.results.end(), same_rows)) return false;
    }
    // An output takes the rows of an input of its type, best of one that is read no more and may be overwritten.
    std::set<ValueId> taken;
    for (const ValueId output : region.row_outputs) {
      ValueId best = no_value;
      for (const ValueId input : region.row_inputs) {
        const Value &a = graph_[input], &b = graph_[output];
        if (taken.count(input) || a.shape != b.shape || a.dtype != b.dtype || !(a.layout == b.layout)) continue;
        const bool free = maker_[at(input)] >= 0 && only_read_by(input, members);
        if (free || best == no_value) best = input;
        if (free) break;
      }
      if (best == no_value) return false;
      taken.insert(best);
      region.host[output] = best;
    }
    return true;
  }

  bool cut(Region& region) const {
    const Value& first = graph_[*region.wide.begin()];
    const int blocks = graph_.mesh.count(first.layout.dimensions[1].axes);
    if (first.shape[0] != graph_.mesh.count(first.layout.dimensions[0].axes) || first.shape[1] % blocks) return false;
    std::int64_t wide = 0, narrow = 0;
    for (const ValueId value : region.wide)
      if (region.made.count(value)) wide += local_bytes(graph_, value);
    for (const auto* values : {&region.row_inputs, &region.row_outputs})
      for (const ValueId value : *values)
        if (!region.wide.count(value)) narrow = std::max(narrow, local_bytes(graph_, value));
    if (narrow == 0) return false;
    const std::int64_t rows = first.shape[1] / blocks, count = (wide + narrow - 1) / narrow,
                       least = schedule_.tile_rows;
    const std::int64_t tile = std::max(least, rows / count / least * least);
    for (std::int64_t from = 0; from < rows;) {
      const bool last = rows - from < tile + least;  // what is less than a block joins the tile before
      region.tiles.push_back({from, last ? rows - from : tile});
      from += region.tiles.back().rows;
    }
    return region.tiles.size() > 1;
  }

  // ---- tiles

  void unroll_all() {
    std::vector<Op> ops;
    ops.swap(graph_.ops);
    std::vector<char> late(graph_.values.size(), 0);  // made by the region that is being gathered, or from it
    std::vector<Op> waiting;
    int gathered = -1;
    std::vector<Op> members;
    for (std::size_t i = 0; i < ops.size(); ++i) {
      Op& op = ops[i];
      if (const int region = region_of_[i]; region >= 0) {
        gathered = region;
        for (const ValueId result : op.results) late[at(result)] = 1;
        members.push_back(std::move(op));
        if (i != regions_[at(region)].ops.back()) continue;
        unroll(regions_[at(region)], members);
        for (Op& one : waiting) graph_.ops.push_back(std::move(one));
        members.clear();
        waiting.clear();
        std::fill(late.begin(), late.end(), 0);
        gathered = -1;
      } else if (gathered >= 0 && std::any_of(op.operands.begin(), op.operands.end(),
                                              [&](ValueId value) { return late[at(value)] != 0; })) {
        for (const ValueId result : op.results) late[at(result)] = 1;
        waiting.push_back(std::move(op));
      } else {
        graph_.ops.push_back(std::move(op));
      }
    }
  }

  void unroll(const Region& region, const std::vector<Op>& members) {
    builder_.at(members[0]);
    std::map<ValueId, ValueId> source, sums;  // by input: whose rows are read now; by sum: what it is so far
    for (const ValueId input : region.row_inputs) source[input] = input;
    for (const Tile& tile : region.tiles) {
      const bool first = tile.from == 0, last = &tile == &region.tiles.back();
      std::map<ValueId, ValueId> here;  // by value: its rows of this tile
      for (const ValueId input : region.row_inputs) here[input] = take(source[input], tile);
      for (const Op& member : members) {
        Op op = member;
        const bool sum = sums_rows(op);
        for (std::size_t k = 0; k < op.operands.size(); ++k)
          if (has_rows(member, member.signature->operands[k])) op.operands[k] = here.at(op.operands[k]);
        if (!sum)
          for (ValueId& result : op.results) result = here[result] = rows_like(result, tile);
        else
          add_up(op, first, last, sums[member.results[0]]);
        graph_.ops.push_back(std::move(op));
      }
      for (const ValueId output : region.row_outputs) {
        ValueId& rows = source[region.host.at(output)];
        rows = put(rows, here.at(output), tile);
        if (last) graph_.ops.back().results[0] = output;
      }
    }
  }

  // The product of this tile's rows, added to that of those before it; `so_far` becomes the sum.
  void add_up(Op& op, bool first, bool last, ValueId& so_far) {
    const ValueId whole = op.results[0];
    if (!first) {
      const std::string &a = op.signature->operands[0], &b = op.signature->operands[1], &c = op.signature->results[0];
      op.definition = find_op("einsum_accumulate");
      op.operands = {op.operands[0], op.operands[1], so_far};
      op.signature = graph_.signature(a + "," + b + "," + c + "->" + c, op.operands);
    }
    if (!last) {
      Value copy = graph_[whole];
      copy.pinned.reset();
      graph_.values.push_back(std::move(copy));
      op.results[0] = static_cast<ValueId>(graph_.values.size() - 1);
    }
    so_far = op.results[0];
  }

  std::int64_t blocks(ValueId value) const { return graph_.mesh.count(graph_[value].layout.dimensions[1].axes); }

  // A value like another, of a tile's rows.
  ValueId rows_like(ValueId value, const Tile& tile) {
    Value copy = graph_[value];
    copy.pinned.reset();
    copy.shape[1] = tile.rows * blocks(value);
    graph_.values.push_back(std::move(copy));
    return static_cast<ValueId>(graph_.values.size() - 1);
  }

  static std::string letters(std::size_t dimensions, char row) {
    return "b" + std::string(1, row) + std::string("ghijkl").substr(0, dimensions - 2);
  }

  ValueId take(ValueId value, const Tile& tile) {
    Shape shape = graph_[value].shape;
    const std::size_t n = shape.size();
    shape[1] = tile.rows * blocks(value);
    return builder_.one(
        "take_rows", {value}, {{"from", tile.from}, {"blocks", blocks(value)}},
        {.signature = letters(n, 't') + "->" + letters(n, 'u'), .result_shapes = {shape}, .name = graph_[value].name});
  }

  ValueId put(ValueId value, ValueId rows, const Tile& tile) {
    const std::size_t n = graph_[value].shape.size();
    return builder_.one(
        "put_rows", {value, rows}, {{"from", tile.from}, {"blocks", blocks(value)}},
        {.signature = letters(n, 't') + "," + letters(n, 'u') + "->" + letters(n, 't'), .name = graph_[value].name});
  }

  Graph& graph_;
  const Schedule& schedule_;
  Builder builder_;
  const std::vector<std::vector<std::int32_t>> use_;
  std::vector<char> is_output_;
  std::vector<std::int32_t> maker_;
  std::vector<Region> regions_;
  std::vector<int> region_of_;
};

}  // namespace

void tile_mlp(Graph& graph, const PassContext& context) {
  if (is_accumulate(context.kind) && tiles_mlp(context.options.schedule)) Tiling(graph, context.options.schedule).run();
}

}  // namespace longhaul::passes
