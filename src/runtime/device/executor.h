// The executor of a device: everything that the rank's programs need lies in one block of the device's memory, which
// the host cannot see. Work is queued on one stream, in the order of the programs, and waited for where the host needs
// what it gives: before a collective that travels through the host, and when a buffer is read. Ours allocates nothing
// in a step.
#pragma once
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "ir/memory_plan.h"
#include "runtime/device/communication_run.h"
#include "runtime/device/kernel.h"
#include "runtime/device/many.h"
#include "runtime/device/program_graph.h"
#include "runtime/device/push_plane.h"
#include "runtime/device/shadow.h"
#include "runtime/device/side_stream.h"
#include "runtime/executor.h"
#include "runtime/program.h"

namespace longhaul {

class DeviceExecutor final : public Executor {
 public:
  /// As CpuExecutor; the context's device has been selected. With `shadow`, which may be null, every op is checked.
  /// Without `groups` every instruction is a kernel of its own. `timeout`: as of CollectiveWatch. With `graphs` a
  /// program is launched as a whole from its third run on: not with a shadow, nor where messages are staged.
  DeviceExecutor(Communicator& world, std::span<const Program* const> programs, const NamedBuffers& named,
                 DeviceContext& context, DeviceKernelCache& kernels, Shadow* shadow, bool groups,
                 const DataPlaneChoice& collectives = {}, double timeout = 0, bool graphs = false);
  ~DeviceExecutor() override;

  /// Queues the program. What fails later, on the device, is thrown where it is waited for.
  void run(std::size_t program) override;
  void read(std::string_view buffer, std::int64_t byte, std::span<std::byte> to) const override;
  void write(std::string_view buffer, std::int64_t byte, std::span<const std::byte> from) override;
  void zero(std::string_view buffer) override;
  std::span<std::byte> host_view(std::string_view) override { return {}; }
  void keep_scalar(std::string_view buffer) override;
  std::vector<double> kept_scalars() override;
  /// Of the calling thread.
  std::optional<Work> work() const override;
  std::int64_t arena_bytes() const override { return static_cast<std::int64_t>(arena_->bytes()); }
  std::int64_t host_arena_bytes() const override { return static_cast<std::int64_t>(host_arena_->bytes()); }
  Traffic traffic() const override;
  void reset_traffic() override;
  /// Refused with graphs, which have no instructions to look at.
  void set_profiling(bool on) override;
  const Profile& profile() const override { return profile_; }

 private:
  struct Instruction {
    const Graph* graph = nullptr;
    const Op* op = nullptr;
    Activity::Place place;
    std::shared_ptr<const DeviceKernel> kernel;
    std::unique_ptr<CommunicationStep> step;
    std::unique_ptr<DeviceCommunication> communication;
    std::vector<const void*> operands;
    std::vector<void*> results;
    void* scratch = nullptr;
    std::size_t scratch_bytes = 0;
    double flops = 0;
    struct Move {
      void* to;
      const void* from;
      std::size_t bytes;
    };
    std::vector<Move> moves = {};            // of a collective's wait: staging values that are not in place
    SideStream* side = nullptr;              // that carries it out; null: the one that computes
    std::shared_ptr<StreamEvent> done = {};  // where it has done so: of a start, its wait, a collective as a whole
  };
  struct Prepared {
    std::vector<Instruction> instructions;
    std::vector<InstructionGroup> order;
    std::vector<MemoryPlan::Copy> copies;
    std::vector<DataPlane*> planes = {};
    std::unique_ptr<ProgramGraph> graph = {};  // null: the host gives the device every instruction, every time
  };
  void prepare(const Program& program);
  /// Several instructions in a launch; not when the last candidate of every op is wanted.
  void order(Prepared& program);
  void run(const Prepared& program);
  void run(const Instruction& instruction);
  void carry_out(const Instruction& instruction);
  void run(const Prepared& program, const InstructionGroup& group);
  /// Where what a start or a collective does is carried out; null: where all is computed.
  SideStream* side_of(const Op& op);
  DataPlane& group(const std::vector<int>& ranks, const AxisList& axes);
  /// Ranks write into each other's arenas by their own plan: all must have the same. Collective.
  void check_places() const;
  char* place(std::string_view buffer, std::int64_t byte, std::size_t count) const;
  void synchronize() const;
  void take_scalars();

  Communicator& world_;
  NamedBuffers named_;
  DeviceContext& context_;
  DeviceKernelCache& kernels_;
  Shadow* shadow_;
  const bool groups_instructions_, graphs_;
  const DataPlaneChoice collectives_;
  const int exceptions_;  // under way when it was made
  std::unique_ptr<DeviceMemory> arena_, host_arena_;
  std::unique_ptr<CollectiveWatch> watch_;  // where a device waits for other ranks
  std::unique_ptr<PeerMemory> peers_;
  bool beside_ = false;  // whether collectives have a stream of their own, and run beside computation
  // By queue. Collectives share one, so that ranks start NCCL's kernels in one order whatever their groups.
  std::map<std::string, SideStream, std::less<>> sides_;
  struct Group {
    std::unique_ptr<Communicator> communicator;
    std::unique_ptr<DataPlane> plane;
  };
  std::map<AxisList, Group> groups_;
  std::int64_t nccl_bytes_ = 0;            // that NCCL has taken for them
  std::unique_ptr<DeviceMemory> staging_;  // of messages
  std::unique_ptr<DeviceMemory> uploads_;  // what write() has taken and the device may not have yet; of read() too
  mutable std::size_t uploaded_ = 0;       // bytes of it
  TableSpace tables_;
  std::unique_ptr<DeviceMemory> scalars_;  // what keep_scalar() has noted and the device may not have written yet
  std::size_t noted_ = 0;                  // of them
  std::vector<Prepared> programs_;
  bool profiling_ = false;
  Profile profile_;
};

}  // namespace longhaul
