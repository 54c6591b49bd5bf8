// optimizer: what happens to gradients. In the accumulate programs they are written to, or added to, accumulators; the
// update program clips them by their true global norm and takes the optimizer's step. All of it ordinary ops: where the
// state lives is decided later.
#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "ir/rewrite.h"
#include "passes/pass.h"

namespace longhaul::passes {
namespace {

void accumulate(Graph& graph, const PassContext& context) {
  const bool adds = context.kind == ProgramKind::accumulate_middle || context.kind == ProgramKind::accumulate_last;
  const bool hands_over = context.kind == ProgramKind::accumulate_only || context.kind == ProgramKind::accumulate_last;
  // For each gradient: its outputs, and the accumulators that they are added to. Two parameters may share a gradient
  // (those of a sum), never an accumulator.
  struct Sum {
    std::size_t output;
    ValueId accumulator;
  };
  std::vector<std::vector<Sum>> sums(graph.values.size());
  for (std::size_t i = 0; i < graph.outputs.size(); ++i) {
    Binding& output = graph.outputs[i];
    if (!output.is(Role::gradient)) continue;
    const StateKey key{Role::accumulator, output.state->parameter};
    if (adds) {
      const Value gradient = graph[output.value];
      sums[static_cast<std::size_t>(output.value)].push_back({i, graph.add_input(key, gradient.shape, gradient.dtype)});
    }
    if (!hands_over) output = {key, output.value};
  }
  if (!adds) return;

  // The sum comes right after its gradient, so that no gradient outlives its layer.
  Builder builder(graph, "optimizer");
  rewrite(graph, [&](Op& op) {
    const std::vector<ValueId> results = op.results;
    builder.at(Phase::backward, op.layer);
    graph.ops.push_back(std::move(op));
    for (ValueId result : results)
      for (const Sum& sum : sums[static_cast<std::size_t>(result)])
        graph.outputs[sum.output].value = builder.one("add", {sum.accumulator, result});
  });
}

void update(Graph& graph, const PassContext& context) {
  const auto& parameters = context.options.meaning.parameters;
  const OptimizerSettings& settings = context.options.meaning.optimizer;
  Builder builder(graph, "optimizer");
  builder.at(Phase::update, -1);
  const ValueId step = graph.add_input("step", {}, DType::float64, Role::scalar);
  const ValueId rate = graph.add_input("learning_rate", {}, DType::float64, Role::scalar);
  std::vector<ValueId> gradients, squares;
  for (const auto& parameter : parameters) {
    gradients.push_back(graph.add_input(StateKey{Role::gradient, parameter.name}, parameter.shape, DType::float64));
    squares.push_back(builder.one("sum_squares", {gradients.back()}));
  }
  const auto clip = builder.emit("clip_coefficient", {builder.one("add", squares)}, {{"max_norm", settings.max_norm}});
  graph.outputs.push_back({"grad_norm", clip[1]});
  const auto moment = [&](Role role, const ParameterInfo& parameter) {
    return graph.add_input(StateKey{role, parameter.name}, parameter.shape, DType::float64);
  };
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const auto& parameter = parameters[i];
    const ValueId value = graph.input(parameter.name);
    LONGHAUL_CHECK(value != no_value, "graph {} has no parameter {}", graph.name, parameter.name);
    const double decay = parameter.decays ? settings.weight_decay : 0.0;
    const auto gives = [&](Role role, ValueId result) {
      graph.outputs.push_back({StateKey{role, parameter.name}, result});
    };
    if (settings.kind == OptimizerKind::muon && parameter.rows > 0) {
      const auto rows = static_cast<double>(parameter.rows),
                 columns = static_cast<double>(element_count(parameter.shape)) / rows;
      const auto moved = builder.emit("muon_momentum", {moment(Role::first_moment, parameter), gradients[i], clip[0]},
                                      {{"momentum", settings.momentum}, {"nesterov", std::int64_t{settings.nesterov}}});
      const ValueId update = builder.one("orthogonalize", {moved[1]}, {{"rows", parameter.rows}},
                                         {.signature = parameter.shape.size() == 3 ? "abc->abc" : "ab->ab"});
      gives(Role::first_moment, moved[0]);
      // The size of AdamW's steps (arXiv 2502.16982), so that both share a learning rate and weight decay.
      gives(Role::parameter,
            builder.one("muon_step", {value, update, rate},
                        {{"scale", 0.2 * std::sqrt(std::max(rows, columns))}, {"weight_decay", decay}}));
    } else if (settings.kind != OptimizerKind::sgd) {
      const ValueId first = moment(Role::first_moment, parameter), second = moment(Role::second_moment, parameter);
      const auto results = builder.emit("adamw", {first, second, value, gradients[i], clip[0], rate, step},
                                        {{"beta1", settings.beta1},
                                         {"beta2", settings.beta2},
                                         {"epsilon", settings.epsilon},
                                         {"weight_decay", decay}});
      gives(Role::first_moment, results[0]);
      gives(Role::second_moment, results[1]);
      gives(Role::parameter, results[2]);
    } else if (settings.momentum == 0) {
      gives(Role::parameter, builder.one("sgd", {gradients[i], value, clip[0], rate}, {{"weight_decay", decay}}));
    } else {
      const auto results = builder.emit(
          "sgd_momentum", {moment(Role::first_moment, parameter), value, gradients[i], clip[0], rate},
          {{"momentum", settings.momentum}, {"nesterov", std::int64_t{settings.nesterov}}, {"weight_decay", decay}});
      gives(Role::first_moment, results[0]);
      gives(Role::parameter, results[1]);
    }
  }
}

}  // namespace

void optimizer(Graph& graph, const PassContext& context) {
  if (is_accumulate(context.kind)) accumulate(graph, context);
  if (context.kind == ProgramKind::update) update(graph, context);
}

}  // namespace longhaul::passes
