// Holds a graph against its definitions: run after every pass, always.
#pragma once
#include <cstdint>
#include <string>

#include "ir/graph.h"

namespace longhaul {

/// How far a graph has come from what is computed to what ranks run. Each stage holds what those before it do, and
/// more.
enum class Stage : std::uint8_t {
  one_device,  // sizes agree with signatures, everything is defined once and before its use
  placed,      // after partition: every op's operands have the layouts that the rule asks for, results those it gives
  lowered      // after lower_reshards: no reshard is left
};

/// Empty when the graph is legal; otherwise one sentence that names the op and what is wrong.
std::string verify(const Graph& graph, Stage stage);

}  // namespace longhaul
