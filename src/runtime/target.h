// A back end: what compiling and running ask of a device. One object a rank, used by that rank's thread; it knows no
// session and no experiment.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "base/choices.h"
#include "base/dtype.h"
#include "comm/communicator.h"
#include "ir/memory_plan.h"
#include "runtime/executor.h"
#include "runtime/program.h"

namespace longhaul {

struct TargetOptions {
  int threads = 1;              ///< of the host, for this rank
  bool reference_only = false;  ///< LONGHAUL_KERNELS=reference: every op by its last candidate
  bool check_ops = false;       ///< LONGHAUL_CHECK_OPS: a device's every op against the CPU's reference kernel
  DataPlaneKind collectives = DataPlaneKind::automatic;  ///< between devices
  double collective_timeout = 600;                       ///< seconds that a device may stay in one; 0: for ever
  bool graphs = false;                                   ///< a device's programs are launched as wholes
  bool ordered_sums = true;                              ///< always in rank order; false: NCCL's where it sums
  double cores = 0;  ///< that those threads can count on, not above them; 0: as many as threads
};

/// How to settle what more than one library computes (matrix products). They round differently, so the choice belongs
/// to the run: it is made once, the same on all ranks, and kept as text.
struct LibraryPolicy {
  std::string only;       ///< takes whatever it can; empty: any
  bool measures = false;  ///< of the others the fastest is taken; false: the first that takes it
};

class Target {
 public:
  virtual ~Target() = default;
  const TargetOptions& options() const { return options_; }

  /// As device.type has it: "cpu", ...
  virtual std::string_view name() const = 0;

  /// What `ranks` ranks of a run should know of it, a line; empty: nothing.
  virtual std::string about(int) const { return ""; }

  /// Whether its memory is another than the host's.
  virtual bool has_own_memory() const { return false; }

  /// What an op needs on a rank besides its operands and results: kernels are chosen for it. Throws Error when none
  /// takes the op.
  virtual std::int64_t scratch_bytes(const Graph& graph, const Op& op) = 0;

  /// Multiply-adds count two; of `dtype`'s arithmetic, by what of the device this rank uses, measured now in a burst.
  virtual double peak_flops(DType dtype) = 0;

  /// Settles libraries anew: every rank sets the policy, one chooses for the programs that will run, the others take
  /// what it chose. Executors made earlier keep what they have; memory does not depend on the choice.
  /// Throws Error, naming `key`, when this build's policy.only does not compute in `dtype`.
  virtual void set_library_policy(const LibraryPolicy& policy, DType dtype, std::string_view key) = 0;
  /// Decides for all ops of the programs; `decided` (earlier libraries(), or empty) stays as it is unless policy.only
  /// says otherwise. Returns a line for the user, empty when there was nothing to choose. Throws Error for a garbled
  /// `decided`.
  virtual std::string choose_libraries(std::span<const Program* const> programs, const std::string& decided) = 0;
  /// What has been decided, as a JSON object.
  virtual std::string libraries() const = 0;
  virtual void set_libraries(const std::string& decided) = 0;

  /// Executors made from now on give no op back sooner than so many seconds after it began, by timers: to see a
  /// schedule of another machine. Collectives take what they take. Only CPU ranks know of it.
  using Pace = std::function<double(const Graph&, const Op&)>;
  void set_pace(Pace seconds) { pace_ = std::move(seconds); }

  /// Makes the programs ready: allocates the arena, zeroed, and makes the groups of the mesh, for which all ranks call
  /// it with the same programs in the same order. `world` and the programs must outlive the executor, and so must this.
  virtual std::unique_ptr<Executor> executor(Communicator& world, std::span<const Program* const> programs,
                                             const NamedBuffers& named) = 0;

 protected:
  explicit Target(const TargetOptions& options) : options_(options) {
    if (options_.cores <= 0) options_.cores = options_.threads;
  }
  Target(const Target&) = delete;
  Target& operator=(const Target&) = delete;

  const Pace& pace() const { return pace_; }

 private:
  TargetOptions options_;
  Pace pace_;
};

}  // namespace longhaul
