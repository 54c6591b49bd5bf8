// Planted faults: what LONGHAUL_FAULT names. Each breaks the meaning of a compiled run in one way, so that `verify` can
// be seen to fail. A fault is a change of the graph made after one pass, of the memory plan, or of the data; no pass
// knows of them, and nothing verifies a graph any more once a fault is in it.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "passes/pass.h"

namespace longhaul {

struct MemoryPlan;
struct NamedBuffers;

struct Fault {
  std::string_view name;
  std::string_view after;    // the pass; "plan_memory" and "data" are places of their own
  std::string_view meaning;  // what goes wrong
  /// Changes the graph; false when there is no place for the fault in it. Null for faults of the plan and of the data.
  bool (*plant)(Graph&, const PassContext&) = nullptr;
};

/// One for every pass of the pipeline (of its name), one for the memory plan, and the classic mistakes.
const std::vector<Fault>& faults();

/// The fault of that name; null for an empty one. Throws Error for an unknown name, with the list.
const Fault* find_fault(std::string_view name);

/// Called after every pass: plants options.fault when it belongs there. True when the graph is now wrong.
bool plant_after(const Pass& pass, Graph& graph, const PassContext& context);
/// The fault "plan_memory": a result is put where a value still lives that is read later.
void plant_in_plan(const CompileOptions& options, const Graph& graph, const NamedBuffers& named, MemoryPlan& plan);
/// The faults of the data, on one rank's buffers of a micro-batch, [rows, slots] each.
void plant_in_data(const CompileOptions& options, std::int64_t rows, std::int64_t slots, const std::int32_t* index,
                   std::int32_t* labels, std::int32_t* key_start);

}  // namespace longhaul
