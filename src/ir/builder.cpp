#include "ir/builder.h"

#include "base/error.h"

namespace longhaul {

std::vector<ValueId> Builder::emit(std::string_view name, std::vector<ValueId> operands, Attributes attributes,
                                   const Options& options) {
  Op op;
  op.definition = find_op(name);
  LONGHAUL_CHECK(op.definition, "no op is called {}", name);
  op.operands = std::move(operands);
  op.attributes = std::move(attributes);
  op.phase = phase_;
  op.layer = layer_;
  op.made_by = made_by_;
  op.signature =
      graph_.signature(options.signature.empty() ? op.definition->signature : options.signature, op.operands);
  const Signature& signature = *op.signature;

  std::array<std::int64_t, 128> size;
  size.fill(-1);
  const auto bind = [&](char letter, std::int64_t extent, const char* what) {
    auto& entry = size[static_cast<std::size_t>(letter)];
    LONGHAUL_CHECK(entry < 0 || entry == extent, "{} '{}': {} gives letter {} both {} and {}", name, signature.text,
                   what, letter, entry, extent);
    entry = extent;
  };
  for (std::size_t i = 0; i < op.operands.size(); ++i) {
    const Shape& shape = graph_[op.operands[i]].shape;
    for (std::size_t k = 0; k < shape.size(); ++k) bind(signature.operands[i][k], shape[k], "an operand");
  }
  for (std::size_t i = 0; i < options.result_shapes.size(); ++i) {
    LONGHAUL_CHECK(options.result_shapes[i].size() == signature.results[i].size(), "{}: shape of result {}", name, i);
    for (std::size_t k = 0; k < signature.results[i].size(); ++k)
      bind(signature.results[i][k], options.result_shapes[i][k], "a result");
  }

  std::vector<DType> types = options.result_types;
  if (types.empty() && op.definition->result_types) types = op.definition->result_types(graph_, op);
  if (types.empty()) {
    DType type = DType::float64;
    for (std::size_t i = op.operands.size(); i-- > 0;)
      if (is_floating(graph_[op.operands[i]].dtype)) type = graph_[op.operands[i]].dtype;
    types.assign(signature.results.size(), type);
  }
  LONGHAUL_CHECK(types.size() == signature.results.size(), "{}: {} result types for {} results", name, types.size(),
                 signature.results.size());
  for (std::size_t i = 0; i < signature.results.size(); ++i) {
    Shape shape;
    for (char letter : signature.results[i]) {
      LONGHAUL_CHECK(size[static_cast<std::size_t>(letter)] >= 0, "{}: letter {} has no size", name, letter);
      shape.push_back(size[static_cast<std::size_t>(letter)]);
    }
    op.results.push_back(graph_.add_value(i == 0 ? options.name : "", std::move(shape), types[i]));
    graph_.values.back().space = op.definition->to;
  }
  if (place_) {
    std::vector<Layout> have;
    for (ValueId operand : op.operands) have.push_back(graph_[operand].layout);
    const Rule rule = layout_rule(graph_, op, have);
    for (std::size_t i = 0; i < op.results.size(); ++i) graph_[op.results[i]].layout = rule.results[i];
  }
  graph_.ops.push_back(op);
  return op.results;
}

ValueId Builder::reshard(ValueId value, const Layout& layout) {
  const bool place = place_;
  place_ = false;
  const ValueId result = one("reshard", {value}, {}, {.name = graph_[value].name});
  place_ = place;
  graph_[result].layout = layout;
  graph_[result].dtype = graph_[value].dtype;
  graph_[result].primal = graph_[value].primal;
  return result;
}

}  // namespace longhaul
