#include <charconv>

#include "base/error.h"
#include "ir/graph.h"
#include "ir/op_definition.h"

namespace longhaul {
namespace {

// Shortest text that reads back as the same double, always with a mark that tells it from an integer.
std::string number_text(double value) {
  char buffer[40];
  const auto result = std::to_chars(buffer, buffer + sizeof buffer, value);
  std::string text(buffer, result.ptr);
  if (text.find_first_of(".einf") == std::string::npos) text += ".0";
  return text;
}

std::string quote(const std::string& text) {
  std::string quoted = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') quoted += '\\';
    quoted += c;
  }
  return quoted + "\"";
}

std::string attribute_text(const Attribute& attribute, const Mesh& mesh) {
  if (const auto* integer = std::get_if<std::int64_t>(&attribute)) return std::to_string(*integer);
  if (const auto* number = std::get_if<double>(&attribute)) return number_text(*number);
  if (const auto* text = std::get_if<std::string>(&attribute)) return quote(*text);
  if (const auto* axes = std::get_if<AxisList>(&attribute)) return "<" + mesh.text(*axes) + ">";
  if (const auto* splits = std::get_if<LetterSplits>(&attribute)) return splits->text(mesh);
  std::string list = "[";
  for (double value : std::get<std::vector<double>>(attribute))
    list += (list.size() > 1 ? ", " : "") + number_text(value);
  return list + "]";
}

// `name`: what stands for the value's own.
std::string value_text(const Graph& graph, ValueId id, const std::string& name) {
  const Value& value = graph[id];
  std::string text = fmt::format("%{} : {}[", id, name_of(value.dtype));
  for (std::size_t i = 0; i < value.shape.size(); ++i) text += fmt::format("{}{}", i ? ", " : "", value.shape[i]);
  text += "] @" + value.layout.text(graph.mesh);
  if (value.space != Space::device) text += fmt::format(" {}", name_of(value.space));
  if (value.role != Role::intermediate) text += fmt::format(" {}", name_of(value.role));
  if (!name.empty()) text += " " + quote(name);
  if (value.primal != no_value) text += fmt::format(" primal=%{}", value.primal);
  if (value.pinned) text += " pinned=@" + value.pinned->text(graph.mesh);
  return text;
}

}  // namespace

std::string print(const Graph& graph, const Op& op) {
  std::string text;
  for (ValueId result : op.results) text += (text.empty() ? "" : ", ") + value_text(graph, result, graph[result].name);
  text += " = " + op.definition->name;
  if (op.definition->signature.empty()) text += " " + quote(op.signature->text);
  text += "(";
  for (std::size_t i = 0; i < op.operands.size(); ++i) text += fmt::format("{}%{}", i ? ", " : "", op.operands[i]);
  text += ")";
  if (!op.attributes.all().empty()) {
    text += " {";
    bool first = true;
    for (const auto& [name, attribute] : op.attributes.all()) {
      text += fmt::format("{}{}={}", first ? "" : ", ", name, attribute_text(attribute, graph.mesh));
      first = false;
    }
    text += "}";
  }
  text += fmt::format(" {}", name_of(op.phase));
  if (op.layer >= 0) text += fmt::format(" layer={}", op.layer);
  if (!op.made_by.empty()) text += fmt::format(" by={}", op.made_by);
  return text;
}

std::string print(const Graph& graph) {
  std::string text = fmt::format("graph {} mesh(", quote(graph.name));
  bool first = true;
  for (const auto& axis : graph.mesh.axes()) {
    text += fmt::format("{}{}={}", first ? "" : ", ", axis.name, axis.size);
    first = false;
  }
  text += ")\n";
  for (const auto& input : graph.inputs) {
    LONGHAUL_CHECK(graph[input.value].name == input.name, "input {} is called {}", input.name, graph[input.value].name);
    text += "input " + value_text(graph, input.value, input.state ? input.state->parameter : input.name) + "\n";
  }
  for (const auto& op : graph.ops) text += print(graph, op) + "\n";
  for (const auto& output : graph.outputs)
    text += output.state ? fmt::format("output {} {} %{}\n", name_of(output.state->role),
                                       quote(output.state->parameter), output.value)
                         : fmt::format("output {} %{}\n", quote(output.name), output.value);
  return text;
}

std::string print_dot(const Graph& graph) {
  std::string text = fmt::format("digraph \"{}\" {{\n  node [shape=box, fontname=\"monospace\"];\n", graph.name);
  const auto definition = definitions(graph);
  for (const auto& input : graph.inputs)
    text += fmt::format("  in{} [label=\"{}\", shape=ellipse];\n", input.value, input.name);
  for (std::size_t i = 0; i < graph.ops.size(); ++i) {
    const Op& op = graph.ops[i];
    text += fmt::format("  op{} [label=\"{}\\n{} layer {}\"{}];\n", i, op.definition->name, name_of(op.phase), op.layer,
                        op.definition->communication ? ", style=filled, fillcolor=lightblue" : "");
    for (ValueId operand : op.operands) {
      const auto from = definition[static_cast<std::size_t>(operand)];
      text += fmt::format("  {}{} -> op{} [label=\"{}\"];\n", from < 0 ? "in" : "op", from < 0 ? operand : from, i,
                          graph[operand].layout.text(graph.mesh));
    }
  }
  for (const auto& output : graph.outputs) {
    const auto from = definition[static_cast<std::size_t>(output.value)];
    text += fmt::format("  \"out {}\" [shape=ellipse];\n  {}{} -> \"out {}\";\n", output.name, from < 0 ? "in" : "op",
                        from < 0 ? output.value : from, output.name);
  }
  return text + "}\n";
}

}  // namespace longhaul
