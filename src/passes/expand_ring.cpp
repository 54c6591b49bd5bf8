// expand_ring: an attention whose queries and keys are split over the same axis becomes ordinary ops: attention of the
// block at hand, a shift of keys and values to the next rank, a merge by log-sum-exp. Backward uses the merged output
// and log-sum-exp; dK and dV travel with the keys they belong to, in float32, and come home at the end. Every block
// passes every rank: attention whose window reaches less has become ordinary ops before (expand_window).
#include <map>

#include "base/error.h"
#include "ir/rewrite.h"
#include "passes/pass.h"

namespace longhaul::passes {
namespace {

class RingExpansion {
 public:
  explicit RingExpansion(Graph& graph) : graph_(graph), builder_(graph, "expand_ring") { builder_.place_results(true); }

  void run() {
    rewrite(builder_, [&](Op& op) {
      const bool forward = op.is("attention");
      if ((!forward && !op.is("attention_gradient")) || op.attributes.split().axes('t').empty())
        graph_.ops.push_back(std::move(op));
      else if (forward)
        expand_forward(op);
      else
        expand_backward(op);
    });
  }

 private:
  int blocks(const Op& op) const { return graph_.mesh.count(op.attributes.split().axes('t')); }

  ValueId rotated(ValueId value, int step) {
    Layout layout = graph_[value].layout;
    if (layout.dimensions[1].rotation == step) return value;
    layout.dimensions[1].rotation = step;
    return builder_.reshard(value, layout);
  }

  // Indices of the keys are the same in every layer: shifted once.
  ValueId rotated_index(ValueId value, int step) {
    auto& entry = indices_.try_emplace({value, step}, no_value).first->second;
    if (entry == no_value) entry = rotated(value, step);
    return entry;
  }

  Attributes attributes_of(const Op& op, int step) const {
    Attributes attributes = op.attributes;
    LetterSplits marks = op.attributes.split();
    marks.set('t', {marks.axes('t'), step});
    attributes.set("split", marks);
    attributes.set("step", std::int64_t{step});
    attributes.set("blocks", std::int64_t{blocks(op)});
    return attributes;
  }

  // Keys and values travel on from where they are; each step's operands.
  std::vector<ValueId> operands_at(const Op& op, int step, ValueId& k, ValueId& v) {
    k = rotated(k, step);
    v = rotated(v, step);
    std::vector<ValueId> operands = op.operands;
    operands[1] = k;
    operands[2] = v;
    operands[4] = rotated_index(op.operands[4], step);
    return operands;
  }

  // The op's own result values are defined by a cast, or by renaming, so that users need not change.
  void finish(ValueId result, ValueId value) {
    if (graph_[result].dtype != graph_[value].dtype) {
      builder_.cast(value, graph_[result].dtype);
      LONGHAUL_CHECK(graph_[graph_.ops.back().results[0]].layout == graph_[result].layout,
                     "expand_ring changed a layout");
      graph_.ops.back().results = {result};
      return;
    }
    LONGHAUL_CHECK(graph_[value].layout == graph_[result].layout, "expand_ring changed a layout");
    for (std::size_t i = graph_.ops.size(); i-- > 0;)
      for (ValueId& defined : graph_.ops[i].results)
        if (defined == value) {
          defined = result;
          return;
        }
    LONGHAUL_CHECK(false, "expand_ring lost a value");
  }

  void expand_forward(const Op& op) {
    ValueId k = op.operands[1], v = op.operands[2], output = no_value, statistics = no_value;
    for (int step = 0; step < blocks(op); ++step) {
      const auto block = builder_.emit("attention_block", operands_at(op, step, k, v), attributes_of(op, step));
      if (output == no_value) {
        output = block[0];
        statistics = block[1];
        continue;
      }
      const auto merged = builder_.emit("attention_merge", {output, statistics, block[0], block[1]});
      output = merged[0];
      statistics = merged[1];
    }
    finish(op.results[1], statistics);
    finish(op.results[0], output);
  }

  void expand_backward(const Op& op) {
    ValueId k = op.operands[1], v = op.operands[2];
    std::vector<ValueId> gradients;
    for (int step = 0; step < blocks(op); ++step) {
      auto operands = operands_at(op, step, k, v);
      if (gradients.empty()) {
        gradients = builder_.emit("attention_block_gradient", operands, attributes_of(op, step));
        continue;
      }
      operands.insert(operands.end(), {gradients[0], rotated(gradients[1], step), rotated(gradients[2], step)});
      gradients = builder_.emit("attention_block_gradient_add", operands, attributes_of(op, step));
    }
    finish(op.results[0], gradients[0]);
    for (const std::size_t i : {1u, 2u}) finish(op.results[i], rotated(gradients[i], 0));
  }

  Graph& graph_;
  Builder builder_;
  std::map<std::pair<ValueId, int>, ValueId> indices_;
};

}  // namespace

void expand_ring(Graph& graph, const PassContext&) {
  RingExpansion(graph).run();
}

}  // namespace longhaul::passes
