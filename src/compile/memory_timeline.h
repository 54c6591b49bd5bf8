// What lives in a rank's arena while the programs of a step go by, instruction by instruction.
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "compile/compile.h"

namespace longhaul {

struct MemoryTimeline {
  using Bytes = std::array<std::int64_t, memory_categories>;
  struct Span {
    std::string name;          ///< of a program
    std::size_t begin = 0;     ///< its first instruction's place
    std::size_t end = 0;       ///< behind its last one's
    std::size_t backward = 0;  ///< where its backward pass begins; `end` without one
  };
  std::vector<Bytes> live;  ///< at each instruction of all programs, one after the other: named buffers included
  std::vector<Span> programs;
  std::size_t peak = 0;         ///< the place where most is live
  std::int64_t peak_bytes = 0;  ///< that is live there
  std::string peak_op;          ///< "einsum of layer 3"
  std::int64_t arena_bytes = 0;
};

/// The programs of a step, each once (with several micro-batches those between the first and the last are alike).
MemoryTimeline memory_timeline(const CompiledModel& model);

}  // namespace longhaul
