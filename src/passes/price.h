// What ops cost, as far as passes choose by it.
#pragma once
#include <vector>

#include "ir/graph.h"
#include "passes/options.h"

namespace longhaul {

/// The time of an op on one rank: in seconds where the schedule knows them (Schedule::seconds), else in FLOPs: its own,
/// or those that the machine could do (Schedule::flops_per_byte) while
/// it moves the op's operands and results; what ranks exchange counts eight times, for links are slower than memory.
double price_of(const Graph& graph, const Op& op, const Schedule& schedule);

/// Those of all ops, in order.
std::vector<double> prices_of(const Graph& graph, const Schedule& schedule);

/// The time of a value's way between device and host, in either direction, in the same unit
/// (Schedule::seconds_per_host_byte, flops_per_host_byte).
double price_of_copy(const Graph& graph, ValueId value, const Schedule& schedule);

}  // namespace longhaul
