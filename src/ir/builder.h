// Appends ops to a graph: shapes from signatures, dtypes from definitions, and (after partition) layouts from the
// layout rule.
#pragma once
#include <string>
#include <vector>

#include "ir/op_definition.h"

namespace longhaul {

class Builder {
 public:
  /// Ops are appended to graph.ops. `made_by` is a string literal: the pass.
  Builder(Graph& graph, const char* made_by) : graph_(graph), made_by_(made_by) {}

  struct Options {
    std::string signature = "";             // for ops that state their own
    std::vector<Shape> result_shapes = {};  // needed when a result letter occurs in no operand; checked otherwise
    std::vector<DType> result_types = {};   // overrides the definition's
    std::string name = "";                  // of the first result
  };
  /// Appends an op and returns its results. Throws std::logic_error when operands and signature do not fit.
  std::vector<ValueId> emit(std::string_view op, std::vector<ValueId> operands, Attributes attributes,
                            const Options& options);
  std::vector<ValueId> emit(std::string_view op, std::vector<ValueId> operands, Attributes attributes = {}) {
    return emit(op, std::move(operands), std::move(attributes), Options());
  }
  /// The only result.
  ValueId one(std::string_view op, std::vector<ValueId> operands, Attributes attributes = {}) {
    return emit(op, std::move(operands), std::move(attributes), Options()).front();
  }
  ValueId one(std::string_view op, std::vector<ValueId> operands, Attributes attributes, const Options& options) {
    return emit(op, std::move(operands), std::move(attributes), options).front();
  }
  ValueId einsum(std::string_view signature, ValueId a, ValueId b, std::string name = "") {
    return one("einsum", {a, b}, {}, {.signature = std::string(signature), .name = std::move(name)});
  }
  /// `value` in another dtype.
  ValueId cast(ValueId value, DType type, Attributes attributes = {}) {
    return one("cast", {value}, std::move(attributes), {.result_types = {type}});
  }
  /// A copy of `value` in another layout.
  ValueId reshard(ValueId value, const Layout& layout);

  Graph& graph() { return graph_; }
  void at(Phase phase, std::int32_t layer) {
    phase_ = phase;
    layer_ = layer;
  }
  void at(const Op& op) { at(op.phase, op.layer); }
  Phase phase() const { return phase_; }
  std::int32_t layer() const { return layer_; }
  /// After partition: results take the layout that the rule gives.
  void place_results(bool place) { place_ = place; }

 private:
  Graph& graph_;
  const char* made_by_;
  Phase phase_ = Phase::forward;
  std::int32_t layer_ = -1;
  bool place_ = false;
};

}  // namespace longhaul
