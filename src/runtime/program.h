// A Program: one rank's ordered instructions with buffer offsets, and the exact memory they need. Every executor runs
// the same.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "ir/memory_plan.h"

namespace longhaul {

struct Program {
  Graph graph;      // after all passes: its ops are the instructions
  MemoryPlan plan;  // where their values live
};

/// What a collective costs on one rank, by the pass that put it there.
struct TrafficRow {
  std::string program;
  std::string collective;
  std::string made_by;
  std::string group;  // mesh axes
  std::int64_t calls = 0;
  std::int64_t bytes_sent = 0;
};
std::vector<TrafficRow> predicted_traffic(const std::string& name, const Program& program, int rank);

/// Instructions as text: op, operand and result offsets, scratch.
std::string print(const Program& program);

}  // namespace longhaul
