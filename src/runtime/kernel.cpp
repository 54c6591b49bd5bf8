#include "runtime/kernel.h"

#include "ir/op_definition.h"

namespace longhaul {
namespace {

struct AttributeKey {
  std::string operator()(std::int64_t value) const { return fmt::format("i{}", value); }
  std::string operator()(double value) const { return fmt::format("d{:a}", value); }
  std::string operator()(const std::string& value) const { return fmt::format("s{}:{}", value.size(), value); }
  std::string operator()(const std::vector<double>& values) const {
    std::string text = "v";
    for (double value : values) text += fmt::format("{:a},", value);
    return text;
  }
  std::string operator()(const AxisList& axes) const {
    std::string text = "a";
    for (int i = 0; i < axes.size(); ++i) text += fmt::format("{},", axes[i]);
    return text;
  }
  std::string operator()(const LetterSplits& splits) const {
    std::string text = "m";
    for (const auto& [letter, split] : splits)
      text += fmt::format("{}{}+{},", letter, (*this)(split.axes), split.rotation);
    return text;
  }
};

}  // namespace

LocalOp::LocalOp(const Graph& graph, const Op& one, bool whole) : op(one), single_device(whole) {
  const auto type = [&](ValueId id) {
    const Value& value = graph[id];
    return TensorType{whole ? value.shape : local_shape(value.shape, value.layout, graph.mesh), value.dtype};
  };
  for (ValueId operand : op.operands) operands.push_back(type(operand));
  for (ValueId result : op.results) results.push_back(type(result));
}

const std::string& LocalOp::name() const {
  return op.definition->name;
}

std::string LocalOp::text() const {
  std::string text = name() + "(";
  for (const auto& operand : operands) {
    text += text.back() == '(' ? "" : ", ";
    text += fmt::format("{}[", name_of(operand.dtype));
    for (std::size_t i = 0; i < operand.shape.size(); ++i) text += fmt::format("{}{}", i ? "," : "", operand.shape[i]);
    text += "]";
  }
  return text + ")";
}

std::string LocalOp::key() const {
  std::string key = fmt::format("{} {} {}", name(), op.signature->text, single_device ? "whole" : "local");
  for (const auto* list : {&operands, &results}) {
    key += " |";
    for (const auto& type : *list) {
      key += fmt::format(" {}", name_of(type.dtype));
      for (std::int64_t size : type.shape) key += fmt::format(",{}", size);
    }
  }
  for (const auto& [name, value] : op.attributes.all())
    key += fmt::format(" {}={}", name, std::visit(AttributeKey(), value));
  return key;
}

}  // namespace longhaul
