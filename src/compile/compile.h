// From a spec and a mesh to the programs of a run, each with its exact memory. Trains nothing and allocates no tensor.
#pragma once
#include <array>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "model/spec.h"
#include "passes/pass.h"
#include "passes/recompute.h"
#include "runtime/program.h"

namespace longhaul {

struct CompileRequest {
  TransformerSpec spec;
  CompileOptions options;
  Mesh mesh;
  std::int64_t batch = 1;     ///< sequences of a micro-batch over all data-parallel ranks
  std::int64_t sequence = 1;  ///< tokens of a sequence, already padded so that it divides over its axes
  std::vector<ProgramKind> kinds;
  ScratchBytes scratch;           ///< what ops need besides their values: the target's answer (Target::scratch_bytes)
  std::int64_t memory_limit = 0;  ///< bytes that a rank's arena may take; 0: any
  std::int64_t host_limit = 0;    ///< bytes that its host arena may take; 0: any
  /// Is shown each program as it is with all collectives taking turns, where the request asks for overlap; null: nobody
  /// asks.
  std::function<void(const Graph&)> before_overlap;
  std::filesystem::path dump;  ///< a folder for the IR after every pass, the programs and the memory table; empty: none
};

struct CompiledModel {
  std::vector<ProgramKind> kinds;
  std::vector<std::unique_ptr<Program>> programs;  ///< one a kind
  NamedBuffers named;
  std::int64_t arena_bytes = 0;
  std::int64_t host_bytes = 0;  ///< of the arena in host memory
  /// Where the request asks for overlap, one a program: what its schedule took for Schedule::overlap_memory so that the
  /// plan is within memory_limit; 0: its collectives take turns with computation.
  std::vector<std::int64_t> overlap_memory;
  std::int64_t turns_arena_bytes = 0;  ///< and what the arena would be if all took turns; 0: it does not ask

  const Program& program(ProgramKind kind) const;
  std::size_t index(ProgramKind kind) const;
  std::vector<const Program*> all() const;
};

/// What tests and `longhaul verify --fault` put into a compilation to see it go wrong; empty in every run. What a hook
/// changed is not verified.
struct CompileHooks {
  PassHook after_pass;
  std::function<void(Program&, const NamedBuffers&)> after_plan;  ///< for each program, once its memory is planned
};

/// Throws Error for what the passes refuse (heads that do not divide, ...) and for a plan beyond memory_limit or
/// host_limit.
CompiledModel compile_model(const CompileRequest& request, const CompileHooks& hooks = {});

/// What each layer of the request's programs could make again in its backward pass (passes/recompute.h). Empty when
/// none of them has one.
std::vector<RecomputeMenu> activation_menus(const CompileRequest& request);

/// The specification of one program: the graph after the passes that know nothing of ranks.
Graph specification(const CompileRequest& request, ProgramKind kind);

/// The first graph of a program, before any pass.
Graph initial_graph(const CompileRequest& request, ProgramKind kind);

/// Programs of a step with this many micro-batches, and evaluation.
std::vector<ProgramKind> step_kinds(std::int64_t accumulation_steps, bool evaluates);
/// Which program micro-batch i of n runs.
ProgramKind accumulate_kind(std::int64_t i, std::int64_t n);

/// Where a rank needs the most memory, and what it is: categories and gaps (unused bytes between buffers) sum to
/// CompiledModel::arena_bytes.
struct MemoryPeak {
  std::size_t program = 0;  ///< of CompiledModel::programs
  std::int32_t op = -1;     ///< its instruction; -1: the program has no buffers of its own
  std::array<std::int64_t, memory_categories> bytes{};
  std::int64_t gaps = 0;
};
MemoryPeak memory_peak(const CompiledModel& model);

/// The memory of a rank at its peak, by category; then at the peak of each program, and the largest buffers; the
/// traffic by collective and pass.
std::string memory_table(const CompiledModel& model);
/// What layers keep for their backward pass and what they make again, by the op that made it; empty without such a
/// pass.
std::string activation_table(const CompiledModel& model);
std::string traffic_table(const CompiledModel& model, int rank);
/// What runs beside computation, by program and link: how many collectives of how many, how many bytes at most are
/// under way at once, and what that costs in memory; empty where nothing does.
std::string overlap_table(const CompiledModel& model);

}  // namespace longhaul
