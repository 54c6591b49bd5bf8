// What the layers of a run make again under a limit on its memory, and what waits in host memory: the plans of
// plan/activations.h, each judged by a whole compilation, and what is known of them kept for the next question.
#pragma once
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include "compile/activation_trials.h"
#include "plan/activations.h"

namespace longhaul {

class ActivationChoice {
 public:
  /// Throws Error for what the passes refuse. The request's memory_limit is not looked at. When its offload_values
  /// allow any, every plan moves as many values to host memory as they and its host_limit let it.
  explicit ActivationChoice(const CompileRequest& request);

  std::size_t plans() const { return plans_.count(); }
  /// Bytes of the arena under a plan: CompiledModel::arena_bytes to the byte.
  std::int64_t bytes(std::size_t plan);
  /// Of those, what is kept between programs, whatever the plan.
  std::int64_t kept_between_programs() const { return trials_.named_bytes(); }
  /// The first plan whose arena is within the limit; none when that of the last is not.
  std::optional<std::size_t> within(std::int64_t limit);
  /// The plan of the smallest arena among those whose bytes were asked for, the first and the last.
  std::size_t least();

  /// Sets a request to compile a plan.
  void apply(std::size_t plan, CompileRequest& request);
  /// The same, but that no more moves to host memory than has to for the limit, within which the plan is.
  void apply_within(std::int64_t limit, std::size_t plan, CompileRequest& request);
  bool offloads() const { return offload_values_ > 0; }
  /// Bytes of both arenas under a plan, when so many values may move.
  const ActivationTrials::Memory& memory(std::size_t plan, std::int64_t offload_values);
  /// What a plan makes again, as a share of the work in all layers.
  double extra(std::size_t plan) const { return plans_.extra(plan); }
  /// "layers 0 to 3 13 of 13, 4 to 31 3 of 13; 5.1 % more work in the layers; MLPs in tiles, attention in chunks of
  /// heads where they can"
  std::string describe(std::size_t plan) const;

 private:
  ActivationTrials trials_;
  ActivationPlans plans_;
  std::int64_t offload_values_, host_limit_;
  std::map<std::size_t, std::int64_t> known_;
  std::map<std::pair<std::size_t, std::int64_t>, ActivationTrials::Memory> moved_;
  std::map<std::size_t, MemoryBounds> bounds_;
};

}  // namespace longhaul
