// The CPU executor: prepares every instruction of its programs once, then runs them in one arena. Ours allocates
// nothing in a step.
#pragma once
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "ir/memory_plan.h"
#include "runtime/communication.h"
#include "runtime/cpu/arena.h"
#include "runtime/cpu/kernel.h"
#include "runtime/program.h"

namespace longhaul {

struct ExecutorOptions {
  int threads = 1;
  bool reference_only = false;
  std::shared_ptr<cpu::MatmulLibraries> libraries = nullptr;  // null: each product's first library
};

class CpuExecutor {
 public:
  /// Groups of the mesh are made here, collectively: all ranks construct their executor with the same programs in the
  /// same order.
  CpuExecutor(Communicator& world, const std::vector<const Program*>& programs, const NamedBuffers& named,
              const ExecutorOptions& options);

  /// Runs programs[i].
  void run(std::size_t i);

  /// A named buffer (state, data, results); throws std::logic_error for an unknown name.
  void* buffer(std::string_view name);
  double scalar(std::string_view name) { return *static_cast<double*>(buffer(name)); }
  void set_scalar(std::string_view name, double value) { *static_cast<double*>(buffer(name)) = value; }

  std::size_t arena_bytes() const { return arena_.bytes(); }
  /// Of all groups together, since the last reset.
  Traffic traffic() const;
  void reset_traffic();

  /// Seconds spent per op name since profiling was switched on; off by default. All ranks switch it together: while it
  /// is on, ranks wait for one another before every collective, so that waiting can be told from moving.
  void profile(bool on) { profiling_ = on; }
  struct ProfileRow {
    double seconds = 0;
    std::int64_t calls = 0;
    double flops = 0;
  };
  const std::map<std::string, ProfileRow>& profile() const { return profile_; }
  /// Of all collectives, since profiling was switched on.
  const CommunicationTimes& communication_times() const { return times_; }

 private:
  struct Instruction {
    const Op* op = nullptr;
    std::shared_ptr<const CpuKernel> kernel;
    std::unique_ptr<CommunicationStep> communication;
    Communicator* group = nullptr;
    std::vector<const void*> operands;
    std::vector<void*> results;
    void* scratch = nullptr;
    double flops = 0;
  };
  struct Prepared {
    std::vector<Instruction> instructions;
    std::vector<MemoryPlan::Copy> copies;
  };
  void prepare(const Program& program, int rank);
  Communicator& group(const Graph& graph, const AxisList& axes);

  Communicator& world_;
  NamedBuffers named_;
  Arena arena_;
  CpuContext context_;
  CpuKernelCache kernels_;
  std::map<AxisList, std::unique_ptr<Communicator>> groups_;
  std::vector<Prepared> programs_;
  bool profiling_ = false;
  std::map<std::string, ProfileRow> profile_;
  CommunicationTimes times_;
};

/// The arena size that these programs need: named buffers, and the largest program's transients.
std::int64_t arena_bytes(const std::vector<const Program*>& programs, const NamedBuffers& named);

}  // namespace longhaul
