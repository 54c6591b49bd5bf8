// The CPU executor: prepares every instruction of its programs once, then runs them in one arena, or two where values
// move to host memory, which here is the same memory. Collectives in two halves are carried out by a thread a link.
// Ours allocates nothing in a step.
#pragma once
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "comm/delay/delay_communicator.h"
#include "ir/memory_plan.h"
#include "runtime/cpu/arena.h"
#include "runtime/cpu/communication_thread.h"
#include "runtime/cpu/kernel.h"
#include "runtime/executor.h"
#include "runtime/program.h"
#include "runtime/target.h"

namespace longhaul {

class CpuExecutor final : public Executor {
 public:
  /// Groups of the mesh are made here, collectively: all ranks construct their executor with the same programs in the
  /// same order. Kernels come from `kernels` and run with `context`; both must outlive the executor.
  CpuExecutor(Communicator& world, std::span<const Program* const> programs, const NamedBuffers& named,
              CpuContext& context, CpuKernelCache& kernels, const Target::Pace& pace = nullptr);
  ~CpuExecutor() override;

  void run(std::size_t program) override;
  void read(std::string_view buffer, std::int64_t byte, std::span<std::byte> to) const override;
  void write(std::string_view buffer, std::int64_t byte, std::span<const std::byte> from) override;
  void zero(std::string_view buffer) override;
  std::span<std::byte> host_view(std::string_view buffer) override;
  std::int64_t arena_bytes() const override { return static_cast<std::int64_t>(arena_.bytes()); }
  std::int64_t host_arena_bytes() const override { return static_cast<std::int64_t>(host_arena_.bytes()); }
  Traffic traffic() const override;
  void reset_traffic() override;
  void set_profiling(bool on) override { profiling_ = on; }
  const Profile& profile() const override { return profile_; }
  void set_tracing(bool on) override { tracing_ = on; }
  std::vector<TraceEvent> trace() const override;

 private:
  // Where collectives in two halves are carried out, in order.
  struct Link {
    Link(std::string_view queue, int rank, int ranks) : name(queue), thread(rank, ranks) {}
    std::string name;
    CommunicationThread thread;
    // Of the thread alone until it has settled.
    CommunicationTimes times;  // while profiling
    std::vector<TraceEvent> events;
    bool profiling = false, tracing = false;
  };
  struct Instruction {
    const Op* op = nullptr;
    Activity::Place place;
    std::shared_ptr<const CpuKernel> kernel;
    std::unique_ptr<CommunicationStep> communication;  // null of a wait: its start has it
    Communicator* group = nullptr;
    Link* link = nullptr;        // of a collective in two halves
    std::size_t started_by = 0;  // of a wait: the instruction
    std::uint64_t ticket = 0;    // of a start that was carried out
    std::vector<const void*> operands;
    std::vector<void*> results;
    void* scratch = nullptr;
    double flops = 0, pace = 0;  // seconds that it takes at least
  };
  struct Prepared {
    std::vector<Instruction> instructions;
    std::vector<MemoryPlan::Copy> copies;
  };
  void prepare(const Program& program);
  // Links have communicators of their own: one thread at a time may use one.
  Communicator& group(const Graph& graph, const AxisList& axes, const std::string& link = "");
  Link& link(const std::string& queue);
  void run_half(Prepared& program, Instruction& instruction);
  void run_alone(Instruction& instruction);
  static void exchange(void* instruction);
  void settle();
  // Where bytes [byte, byte + count) of a buffer lie in the arena.
  std::int64_t place(std::string_view buffer, std::int64_t byte, std::size_t count) const;

  Communicator& world_;
  const std::shared_ptr<DelayedWire> wire_;  // of LONGHAUL_DELAY; null: as fast as it is
  NamedBuffers named_;
  Arena arena_, host_arena_;
  CpuContext& context_;
  CpuKernelCache& kernels_;
  std::map<std::pair<std::string, AxisList>, std::unique_ptr<Communicator>> groups_;  // by link
  std::vector<Prepared> programs_;
  const Target::Pace& pace_;
  bool profiling_ = false, tracing_ = false;
  Profile profile_;
  std::vector<TraceEvent> events_;
  std::map<std::string, Link> links_;  // last: their threads use the others
};

}  // namespace longhaul
