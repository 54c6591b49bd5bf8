// recompute: what the backward pass reads of the forward pass is kept from one to the other, or made again, from what
// is kept, by clones of the ops that made it, in the backward phase of its layer. Nothing but bytes and order changes:
// a clone computes the same bits. The pass knows no op by name; its definition says what one costs, and which results
// are too dear to make twice (OpDefinition::recomputable).
// Where memory asks for tiles (tiles_mlp) it also asks for less around the dearest op of a layer's backward pass, when
// most lives: what costs next to nothing and is made of what stays anyway is made once before that op and once after
// it, and what the first layer reads is made again from the program's inputs. Clones of collectives are issued by all
// ranks alike, since all run one program; a parameter that is gathered for a clone serves the layer's backward pass as
// well (cse).
#include "passes/recompute.h"

#include <algorithm>
#include <functional>
#include <map>
#include <set>

#include "base/error.h"
#include "ir/op_definition.h"
#include "ir/rewrite.h"
#include "passes/pass.h"
#include "passes/price.h"

namespace longhaul {
namespace {

constexpr double cheap_share = 0.02;  // of a layer's price: what is made again without being asked for
constexpr std::int64_t smaller = 2;   // an operand so many times smaller than a value may be kept in its place

std::size_t at(std::int32_t i) {
  return static_cast<std::size_t>(i);
}

/// What one layer keeps and makes again. Values of other layers, and of none, are as they are.
class Layer {
 public:
  Layer(const Graph& graph, const Schedule& schedule, const std::vector<double>& prices,
        const std::vector<std::int32_t>& maker, const std::vector<std::vector<std::int32_t>>& use, std::int32_t layer)
      : graph_(graph), schedule_(schedule), prices_(prices), maker_(maker), use_(use), layer_(layer) {}

  void add(std::int32_t op) {
    const Op& one = graph_.ops[at(op)];
    price += prices_[at(op)];
    if (one.phase == Phase::backward && one.definition->communication)
      for (const ValueId operand : one.operands) exchanged_.push_back({operand, one.results[0]});
    if (one.phase != Phase::forward) return;
    for (const ValueId result : one.results) {
      if (!is_saved(result)) continue;
      kept_bytes += local_bytes(graph_, result);
      const bool here = std::all_of(use_[at(result)].begin(), use_[at(result)].end(), [&](std::int32_t user) {
        return graph_.ops[at(user)].phase != Phase::backward || graph_.ops[at(user)].layer == layer_;
      });
      if (here) candidates_.push_back(result);
    }
  }

  /// The next step; its value is no_value when none saves anything. What is too dear to be made twice comes last, and
  /// only to a layer of which a budget may ask everything.
  RecomputeStep next() {
    RecomputeStep step = cheapest(false);
    if (step.value == no_value && schedule_.activations == ActivationMode::automatic) step = cheapest(true);
    return step;
  }

  /// Whether an op of the layer's backward pass that reads this value is to read a clone.
  bool is_made_again(ValueId value) const {
    const std::int32_t op = maker_[at(value)];
    if (op < 0 || graph_.ops[at(op)].phase != Phase::forward || graph_.ops[at(op)].layer != layer_) return false;
    return now_.again.count(value) || (!is_saved(value) && !now_.kept.count(value));
  }

  double price = 0;
  std::int64_t kept_bytes = 0;

 private:
  RecomputeStep cheapest(bool dear) {
    RecomputeStep best;
    State after;
    double ratio = 0;
    for (const ValueId value : candidates_) {
      if (now_.again.count(value)) continue;
      State state = now_;
      state.again.insert(value);
      Cost cost;
      if (!makes(value, value, dear, state, cost)) continue;
      const std::int64_t gain = local_bytes(graph_, value) - cost.kept;
      if (gain <= 0) continue;
      const double per_byte = cost.price / static_cast<double>(gain);
      if (best.value != no_value && per_byte >= ratio) continue;
      ratio = per_byte;
      best = {value, gain, cost.price, 0, dear};
      after = std::move(state);
    }
    if (best.value != no_value) now_ = std::move(after);
    worth_ = std::max(worth_, ratio);
    best.worth = worth_;
    return best;
  }

  struct State {
    std::set<ValueId> again;        // saved values that are no longer
    std::set<ValueId> kept;         // values that are saved now and were not
    std::set<std::int32_t> clones;  // ops
  };
  struct Cost {
    double price = 0;
    std::int64_t kept = 0;
  };

  bool is_saved(ValueId value) const {
    return std::any_of(use_[at(value)].begin(), use_[at(value)].end(),
                       [&](std::int32_t user) { return graph_.ops[at(user)].phase == Phase::backward; });
  }
  // The backward pass has such a collective of its own, with which a clone will be one op.
  bool is_exchanged(const Op& op) const {
    if (!op.definition->communication || op.operands.size() != 1) return false;
    return std::any_of(exchanged_.begin(), exchanged_.end(), [&](const auto& one) {
      return one.first == op.operands[0] && graph_[one.second].layout == graph_[op.results[0]].layout;
    });
  }

  // Adds what it takes to make `value` in the backward pass. False when that is impossible. `whole` is what all this is
  // for: an operand on the way that is much smaller is kept instead.
  bool makes(ValueId value, ValueId whole, bool dear, State& state, Cost& cost) const {
    const Op& op = graph_.ops[at(maker_[at(value)])];
    if (!op.definition->recomputable && !dear) return false;
    if (!state.clones.insert(maker_[at(value)]).second) return true;
    if (!is_exchanged(op)) cost.price += prices_[at(maker_[at(value)])];
    for (const ValueId operand : op.operands)
      if (!finds(operand, whole, dear, state, cost)) return false;
    return true;
  }
  bool finds(ValueId value, ValueId whole, bool dear, State& state, Cost& cost) const {
    const std::int32_t op = maker_[at(value)];
    if (op < 0 || state.kept.count(value)) return true;  // inputs stay
    const bool own = graph_.ops[at(op)].phase == Phase::forward && graph_.ops[at(op)].layer == layer_;
    if (is_saved(value) && !state.again.count(value)) return true;
    if (!is_saved(value) && local_bytes(graph_, value) * smaller <= local_bytes(graph_, whole)) {
      // A parameter that was gathered is gathered again, whatever its size: it is kept sharded.
      const Op& maker = graph_.ops[at(op)];
      if (!(own && maker.definition->communication && maker_[at(maker.operands[0])] < 0)) {
        state.kept.insert(value);
        cost.kept += local_bytes(graph_, value);
        return true;
      }
    }
    return own && makes(value, whole, dear, state, cost);
  }

  const Graph& graph_;
  const Schedule& schedule_;
  const std::vector<double>& prices_;  // by op
  const std::vector<std::int32_t>& maker_;
  const std::vector<std::vector<std::int32_t>>& use_;
  const std::int32_t layer_;
  std::vector<ValueId> candidates_;
  std::vector<std::pair<ValueId, ValueId>> exchanged_;  // operand, result
  State now_;
  double worth_ = 0;
};

std::vector<Layer> layers_of(const Graph& graph, const Schedule& schedule, const std::vector<double>& prices,
                             const std::vector<std::int32_t>& maker,
                             const std::vector<std::vector<std::int32_t>>& use) {
  std::vector<Layer> layers;
  for (std::size_t i = 0; i < graph.ops.size(); ++i) {
    const std::int32_t layer = graph.ops[i].layer;
    if (layer < 0) continue;
    while (static_cast<std::int32_t>(layers.size()) <= layer)
      layers.emplace_back(graph, schedule, prices, maker, use, static_cast<std::int32_t>(layers.size()));
    layers[at(layer)].add(static_cast<std::int32_t>(i));
  }
  return layers;
}

RecomputeMenu menu_of(Layer layer, std::int32_t number) {
  RecomputeMenu menu{number, layer.price, layer.kept_bytes, {}};
  for (RecomputeStep step = layer.next(); step.value != no_value; step = layer.next()) menu.steps.push_back(step);
  return menu;
}

// Values of no layer that only one layer's backward pass reads, made at next to no cost of inputs that are there
// anyway.
void add_made_of_inputs(const Graph& graph, const std::vector<std::int32_t>& maker, const std::vector<double>& prices,
                        const std::vector<std::vector<std::int32_t>>& use, const std::vector<Layer>& layers,
                        std::vector<char>& again) {
  for (std::size_t v = 0; v < again.size(); ++v) {
    if (maker[v] < 0) continue;
    const Op& op = graph.ops[at(maker[v])];
    if (op.phase != Phase::forward || op.layer >= 0 || op.definition->communication ||
        !std::all_of(op.operands.begin(), op.operands.end(), [&](ValueId operand) { return maker[at(operand)] < 0; }))
      continue;
    std::set<std::int32_t> readers;
    for (const std::int32_t user : use[v])
      if (const Op& reader = graph.ops[at(user)]; reader.phase == Phase::backward) readers.insert(reader.layer);
    if (readers.size() != 1 || *readers.begin() < 0) continue;
    again[v] = prices[at(maker[v])] <= cheap_share * layers[at(*readers.begin())].price;
  }
}

// By value: whether backward ops of the layer that made it read clones of it.
std::vector<char> values_made_again(const Graph& graph, const std::vector<std::int32_t>& maker,
                                    const std::vector<double>& prices, const Schedule& schedule) {
  const auto use = uses(graph);
  std::vector<Layer> layers = layers_of(graph, schedule, prices, maker, use);
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const RecomputeMenu menu = menu_of(layers[i], static_cast<std::int32_t>(i));
    for (int step = recompute_steps(menu, schedule); step > 0; --step) layers[i].next();
  }
  std::vector<char> again(graph.values.size(), 0);
  for (std::size_t v = 0; v < again.size(); ++v)
    if (maker[v] >= 0)
      if (const std::int32_t layer = graph.ops[at(maker[v])].layer; layer >= 0)
        again[v] = layers[at(layer)].is_made_again(static_cast<ValueId>(v));
  if (tiles_mlp(schedule)) {
    // Readers are those of the graph in which clones stand already: what a clone reads is read in backward.
    auto reads = use;
    for (std::size_t v = 0; v < again.size(); ++v)
      if (again[v])
        for (const ValueId operand : graph.ops[at(maker[v])].operands)
          for (const std::int32_t user : use[v])
            if (graph.ops[at(user)].phase == Phase::backward) reads[at(operand)].push_back(user);
    add_made_of_inputs(graph, maker, prices, reads, layers, again);
  }
  return again;
}

}  // namespace

int RecomputeMenu::within(double share) const {
  int count = 0;
  double sum = 0;
  for (const RecomputeStep& step : steps) {
    sum += step.price;
    if (sum > share * price) break;
    ++count;
  }
  return count;
}

std::vector<RecomputeMenu> recompute_menus(const Graph& graph, const Schedule& schedule) {
  const auto maker = definitions(graph);
  const auto use = uses(graph);
  const std::vector<double> prices = prices_of(graph, schedule);
  const std::vector<Layer> layers = layers_of(graph, schedule, prices, maker, use);
  std::vector<RecomputeMenu> menus;
  for (std::size_t i = 0; i < layers.size(); ++i) menus.push_back(menu_of(layers[i], static_cast<std::int32_t>(i)));
  return menus;
}

int recompute_steps(const RecomputeMenu& menu, const Schedule& schedule) {
  if (at(menu.layer) < schedule.recompute_steps.size())
    return std::min(schedule.recompute_steps[at(menu.layer)], static_cast<int>(menu.steps.size()));
  switch (schedule.activations) {
    case ActivationMode::keep:
      return 0;
    case ActivationMode::recompute:
      return static_cast<int>(menu.steps.size());
    default:
      return menu.within(cheap_share);
  }
}

namespace passes {

void recompute(Graph& graph, const PassContext& context) {
  if (!is_accumulate(context.kind)) return;
  std::vector<std::int32_t> maker = definitions(graph);
  const std::vector<double> prices = prices_of(graph, context.options.schedule);
  std::vector<char> again = values_made_again(graph, maker, prices, context.options.schedule);
  std::map<std::int32_t, std::vector<ValueId>> light;  // by layer: cloned values that may be cloned once more
  std::map<ValueId, std::int64_t> times;               // by value: how often what was cloned of it has been forgotten
  std::map<std::int32_t, double> price;                // of layers
  for (std::size_t i = 0; i < graph.ops.size(); ++i) price[graph.ops[i].layer] += prices[i];
  const Schedule& schedule = context.options.schedule;
  const std::vector<Op> original = graph.ops;
  std::vector<ValueId> clone(graph.values.size(), no_value);
  std::vector<ValueId> cloned;                   // in order
  const auto is_gathered = [&](ValueId value) {  // a parameter: it is sharded elsewhere
    if (maker[at(value)] < 0) return false;
    const Op& op = original[at(maker[at(value)])];
    return op.definition->communication && maker[at(op.operands[0])] < 0;
  };
  const auto forget = [&](ValueId value) {
    clone[at(value)] = no_value;
    ++times[value];
  };
  // What a backward op, or a clone for it, reads in place of a value: clones go before the first that needs them.
  const std::function<ValueId(ValueId)> in_backward = [&](ValueId value) {
    if (at(value) >= again.size() || !again[at(value)]) return value;
    if (clone[at(value)] != no_value) return clone[at(value)];
    Op op = original[at(maker[at(value)])];
    op.phase = Phase::backward;
    // What a parameter's gather is for does not matter: it will be one with that of the layer's backward pass.
    if (!op.definition->communication || maker[at(op.operands[0])] >= 0) op.made_by = "recompute";
    const bool of_what_stays = std::none_of(op.operands.begin(), op.operands.end(), [&](ValueId operand) {
      return at(operand) < again.size() && again[at(operand)] && !is_gathered(operand);
    });
    if (of_what_stays && !op.definition->communication && op.results.size() == 1) light[op.layer].push_back(value);
    if (times.count(value)) op.attributes.set("again", times[value]);  // no cse takes two for one
    const std::size_t before = cloned.size();
    for (ValueId& operand : op.operands) operand = in_backward(operand);
    if (!op.definition->recomputable && tiles_mlp(schedule)) {
      // What the dearest op of the forward pass reads is made anew for its gradient: between the two comes the MLP's.
      const std::vector<ValueId> read(cloned.begin() + static_cast<std::ptrdiff_t>(before), cloned.end());
      double sum = 0;
      for (const ValueId one : read) sum += is_gathered(one) ? 0 : prices[at(maker[at(one)])];
      if (sum <= cheap_share * price[op.layer])
        for (const ValueId one : read)
          if (!is_gathered(one)) forget(one);
    }
    for (ValueId& result : op.results) {
      Value copy = graph[result];
      copy.pinned.reset();
      graph.values.push_back(std::move(copy));
      cloned.push_back(result);
      result = clone[at(result)] = static_cast<ValueId>(graph.values.size() - 1);
    }
    graph.ops.push_back(std::move(op));
    return clone[at(value)];
  };
  rewrite(graph, [&](Op& op) {
    if (op.phase == Phase::backward && op.layer >= 0)
      for (ValueId& operand : op.operands) operand = in_backward(operand);
    const bool dearest = op.phase == Phase::backward && !op.definition->recomputable && tiles_mlp(schedule);
    const std::int32_t layer = op.layer;
    graph.ops.push_back(std::move(op));
    if (!dearest || layer < 0) return;
    for (const ValueId value : light[layer])
      if (prices[at(maker[at(value)])] <= cheap_share * price[layer]) forget(value);
    light[layer].clear();
  });
}

}  // namespace passes
}  // namespace longhaul
