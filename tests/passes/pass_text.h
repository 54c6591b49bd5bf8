// Shorthands of tests that give a pass IR text.
#pragma once
#include <stdexcept>
#include <string>
#include <vector>

#include "ir/graph.h"
#include "ir/op_definition.h"

namespace longhaul::test {

inline std::vector<std::string> op_names(const Graph& graph) {
  std::vector<std::string> names;
  for (const Op& op : graph.ops) names.push_back(op.definition->name);
  return names;
}

inline int count(const Graph& graph, std::string_view name) {
  int n = 0;
  for (const Op& op : graph.ops) n += op.is(name);
  return n;
}

/// The first op of that name; throws std::out_of_range when there is none.
inline const Op& find(const Graph& graph, std::string_view name) {
  for (const Op& op : graph.ops)
    if (op.is(name)) return op;
  throw std::out_of_range("no op " + std::string(name));
}

inline std::string layout(const Graph& graph, ValueId value) {
  return graph[value].layout.text(graph.mesh);
}

}  // namespace longhaul::test
