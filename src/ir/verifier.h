// Holds a graph against its definitions: run after every pass in tests, and by `compile` always.
#pragma once
#include <string>

#include "ir/graph.h"

namespace longhaul {

struct VerifyOptions {
  bool layouts =
      false;  // after partition: every op's operands have the layouts that the rule asks for, results those it gives
  bool lowered = false;  // after lower_reshards: no reshard is left
};

/// Empty when the graph is legal; otherwise one sentence that names the op and what is wrong.
std::string verify(const Graph& graph, const VerifyOptions& options);

}  // namespace longhaul
