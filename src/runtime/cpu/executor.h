// The CPU executor: prepares every instruction of its programs once, then runs them in one arena, or two where values
// move to host memory, which here is the same memory. Ours allocates nothing in a step.
#pragma once
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "ir/memory_plan.h"
#include "runtime/cpu/arena.h"
#include "runtime/cpu/kernel.h"
#include "runtime/executor.h"
#include "runtime/program.h"

namespace longhaul {

class CpuExecutor final : public Executor {
 public:
  /// Groups of the mesh are made here, collectively: all ranks construct their executor with the same programs in the
  /// same order. Kernels come from `kernels` and run with `context`; both must outlive the executor.
  CpuExecutor(Communicator& world, std::span<const Program* const> programs, const NamedBuffers& named,
              CpuContext& context, CpuKernelCache& kernels);
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

 private:
  struct Instruction {
    const Op* op = nullptr;
    Activity::Place place;
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
  void prepare(const Program& program);
  Communicator& group(const Graph& graph, const AxisList& axes);
  // Where bytes [byte, byte + count) of a buffer lie in the arena.
  std::int64_t place(std::string_view buffer, std::int64_t byte, std::size_t count) const;

  Communicator& world_;
  NamedBuffers named_;
  Arena arena_, host_arena_;
  CpuContext& context_;
  CpuKernelCache& kernels_;
  std::map<AxisList, std::unique_ptr<Communicator>> groups_;
  std::vector<Prepared> programs_;
  bool profiling_ = false;
  Profile profile_;
};

}  // namespace longhaul
