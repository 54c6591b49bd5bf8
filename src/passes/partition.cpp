// partition: one sweep over the joint graph gives every value a layout. Batch and sequence of the data are split over
// their axes, state is where shard_state pinned it, and the layout rule says what each op needs and gives; where an
// operand is laid out otherwise a reshard is inserted. Preferences change only the cost: attention output returns to
// the layout of q (result_like), a gradient lives where its value lives.
#include <map>

#include "base/error.h"
#include "ir/rewrite.h"
#include "passes/pass.h"

namespace longhaul::passes {
namespace {

class Partition {
 public:
  Partition(Graph& graph, const PassContext& context)
      : graph_(graph), context_(context), builder_(graph, "partition") {}

  void run() {
    place_inputs();
    home_.resize(graph_.values.size(), no_value);
    rewrite(builder_, [&](Op& op) { place(op); });
    for (auto& output : graph_.outputs) output.value = home_[static_cast<std::size_t>(output.value)];
    for (auto& output : graph_.outputs)
      if (const auto pinned = original_pin_.find(output.value); pinned != original_pin_.end())
        graph_[output.value].pinned = pinned->second;
  }

 private:
  struct Copy {
    Layout layout;
    Phase phase;
    std::int32_t layer;
    ValueId value;
  };

  void place_inputs() {
    const AxisList batch = graph_.mesh.axes(context_.options.placement.batch_axes);
    const AxisList sequence = graph_.mesh.axes(context_.options.placement.sequence_axes);
    home_.resize(graph_.values.size(), no_value);
    for (const auto& input : graph_.inputs) {
      Value& value = graph_[input.value];
      if (value.pinned)
        value.layout = *value.pinned;
      else if (value.role == Role::data) {
        LONGHAUL_CHECK(value.shape.size() == 2 && value.shape[0] % graph_.mesh.count(batch) == 0 &&
                           value.shape[1] % graph_.mesh.count(sequence) == 0,
                       "input {} does not divide over the mesh", input.name);
        value.layout.dimensions[0].axes = batch;
        value.layout.dimensions[1].axes = sequence;
      }
      home_[static_cast<std::size_t>(input.value)] = input.value;
    }
  }

  // A gathered parameter serves the ops of one phase and layer: kept longer, the forward's copy would live until the
  // backward.
  bool shared_within_layer(ValueId value) const { return holds_parameter(graph_[value].role); }

  ValueId in_layout(ValueId value, const Layout& layout, const Op& user) {
    const ValueId home = home_[static_cast<std::size_t>(value)];
    if (graph_[home].layout == layout) return home;
    const bool local = shared_within_layer(value);
    for (const Copy& copy : copies_[value])
      if (copy.layout == layout && (!local || (copy.phase == user.phase && copy.layer == user.layer)))
        return copy.value;
    const ValueId copy = builder_.reshard(home, layout);
    copies_[value].push_back({layout, user.phase, user.layer, copy});
    return copy;
  }

  std::optional<Layout> preferred(const Op& op, std::size_t result, const std::vector<Layout>& have) const {
    const Value& value = graph_[op.results[result]];
    if (value.pinned) return value.pinned;
    if (value.primal != no_value && !shared_within_layer(value.primal)) {
      const ValueId home = home_[static_cast<std::size_t>(value.primal)];
      if (home == no_value) return std::nullopt;
      Layout layout = graph_[home].layout;
      layout.partial = 0;
      return layout;
    }
    for (const auto& [like, operand] : op.definition->result_like)
      if (static_cast<std::size_t>(like) == result) return have[static_cast<std::size_t>(operand)];
    return std::nullopt;
  }

  void place(Op& op) {
    std::vector<Layout> have;
    for (ValueId operand : op.operands) have.push_back(graph_[home_[static_cast<std::size_t>(operand)]].layout);
    const Rule rule = layout_rule(graph_, op, have);
    for (std::size_t i = 0; i < op.operands.size(); ++i)
      op.operands[i] = in_layout(op.operands[i], rule.operands[i], op);
    const Op placed = op;
    graph_.ops.push_back(std::move(op));
    for (std::size_t i = 0; i < placed.results.size(); ++i) {
      const ValueId id = placed.results[i];
      const std::optional<Layout> want = preferred(placed, i, have);
      graph_[id].layout = rule.results[i];
      home_[static_cast<std::size_t>(id)] = id;
      const std::optional<Layout> pinned = graph_[id].pinned;
      graph_[id].pinned.reset();
      if (want && !(*want == rule.results[i])) {
        copies_[id].push_back({rule.results[i], placed.phase, placed.layer, id});
        const ValueId moved = builder_.reshard(id, *want);
        home_[static_cast<std::size_t>(id)] = moved;
        home_.resize(graph_.values.size(), no_value);
      }
      if (pinned) original_pin_[home_[static_cast<std::size_t>(id)]] = *pinned;
    }
  }

  Graph& graph_;
  const PassContext& context_;
  Builder builder_;
  std::vector<ValueId> home_;  // for each value before the pass: the copy in its preferred layout
  std::map<ValueId, std::vector<Copy>> copies_;
  std::map<ValueId, Layout> original_pin_;
};

}  // namespace

void partition(Graph& graph, const PassContext& context) {
  Partition(graph, context).run();
}

}  // namespace longhaul::passes
