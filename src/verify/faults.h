// Planted faults: what `longhaul verify --fault NAME` breaks on purpose, so that verify can be seen to fail. Each
// breaks the meaning of a compiled run in one way: a change of the graph made after one pass, of the memory plan, or of
// the loaded data. They reach a run through hooks that only tests fill besides; no pass, session or option knows of
// them.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "compile/compile.h"
#include "passes/pass.h"
#include "run/session.h"

namespace longhaul {

/// One of `graph`, `plan` and `data` is set. Each returns false when it finds no place for the fault.
struct Fault {
  std::string_view name;
  std::string_view after;    // the pass; "plan_memory" and "data" are places of their own
  std::string_view meaning;  // what goes wrong
  bool (*graph)(Graph&, const PassContext&) = nullptr;
  bool (*plan)(Program&, const NamedBuffers&) = nullptr;
  bool (*data)(HostBatch&, std::int64_t rows, std::int64_t slots) = nullptr;
};

/// One for every pass of the pipeline (of its name), one for the memory plan, and the classic mistakes.
const std::vector<Fault>& faults();

/// The fault of that name; null for an empty one. Throws Error for an unknown name, with the list.
const Fault* find_fault(std::string_view name);

/// Name, place and meaning of every fault, one a line.
std::string fault_table();

/// What plants a fault in a rank's programs and micro-batches; empty hooks without one.
struct FaultHooks {
  CompileHooks compile;
  LoadHook after_load;
  std::shared_ptr<bool> planted = std::make_shared<bool>(false);  ///< whether it found a place on this rank
};
FaultHooks fault_hooks(const Fault* fault);

}  // namespace longhaul
