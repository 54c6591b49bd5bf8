// What a step's memory would be under other choices of what its layers make again and what waits in host memory: the
// passes before that choice run once, and only the programs that it changes are compiled anew.
#pragma once
#include <cstdint>
#include <vector>

#include "compile/compile.h"
#include "passes/plan_memory.h"

namespace longhaul {

class ActivationTrials {
 public:
  /// Throws Error for what the passes refuse; the request's memory_limit and dump are not looked at.
  explicit ActivationTrials(CompileRequest request);

  /// What each layer could make again (passes/recompute.h); empty when no program has a backward pass.
  const std::vector<RecomputeMenu>& menus() const { return menus_; }
  /// Bytes kept between programs, which no choice changes.
  std::int64_t named_bytes() const { return named_.bytes; }
  /// Bytes of the arena when each layer takes so many steps of its menu, and MLPs work through their rows in tiles or
  /// not: CompiledModel::arena_bytes to the byte.
  std::int64_t arena_bytes(const std::vector<int>& steps, bool tiles) const;
  struct Memory {
    std::int64_t arena_bytes = 0, host_bytes = 0;  ///< CompiledModel's, to the byte
    std::int64_t offload_values = 0;               ///< how many of those that were allowed host memory holds
  };
  /// The same when so many values may wait in host memory (Schedule::offload_values), as long as `host_limit` bytes
  /// hold them.
  Memory memory(const std::vector<int>& steps, bool tiles, std::int64_t offload_values, std::int64_t host_limit) const;
  /// Between what those of arena_bytes lie, in half the time.
  MemoryBounds arena_bounds(const std::vector<int>& steps, bool tiles) const;

 private:
  struct Program {
    ProgramKind kind;
    Graph graph;  // before the choice
  };
  CompileOptions options(const std::vector<int>& steps, bool tiles) const;
  Graph finished(const Program& program, const CompileOptions& options) const;
  // After the passes before `end`, from the choice on.
  Graph finished(const Program& program, const CompileOptions& options, int end) const;

  CompileRequest request_;
  std::vector<Program> chosen_;  // programs that the choice changes
  std::vector<RecomputeMenu> menus_;
  NamedBuffers named_;
  std::int64_t others_ = 0;  // what the other programs need besides named buffers
};

}  // namespace longhaul
