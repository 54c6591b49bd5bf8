// One rank's live run: compiled programs in their executor, the state that outlives them, and how micro-batches go in.
// The trainer, verify and the tests all drive this.
#pragma once
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "compile/compile.h"
#include "model/batch.h"
#include "model/parameters.h"
#include "plan/token_placement.h"
#include "runtime/executor.h"
#include "runtime/target.h"

namespace longhaul {

/// A state tensor and the part of it that this rank holds.
struct StateTensor {
  StateKey key;
  std::string name;  // of its buffer
  Shape shape;       // of the whole tensor
  DType dtype = DType::float32;
  std::int64_t begin = 0, end = 0;  // flat elements of the whole tensor held here
  bool whole = true;                // every rank holds all of it
  AxisList shards;                  // the mesh axes that it is split over; none when it is whole
  std::int64_t chunk = 0;           // elements of a shard, padding included
  int copy = 0;                     // this rank's number among those that hold the same part, by mesh coordinates
  std::int64_t elements() const { return end - begin; }
};

/// Fills elements [begin, end) of a parameter, given in the master dtype (float or double).
using ParameterSource =
    std::function<void(const std::string& name, std::int64_t begin, std::int64_t end, DType dtype, void* target)>;

/// Writes elements [begin, end) of a tensor to `target`, in the tensor's dtype.
using ElementFill = std::function<void(std::int64_t begin, std::int64_t end, void* target)>;

struct StepResult {
  double loss = 0;          // mean over the step's valid tokens
  double grad_norm = 0;     // before clipping
  double valid_tokens = 0;  // of the step
};

/// Changes a micro-batch of rows × slots after it was loaded: for `longhaul verify --fault` and tests.
using LoadHook = std::function<void(HostBatch&, std::int64_t rows, std::int64_t slots)>;

class Session {
 public:
  /// Collective over `world`. `target` (this rank's), `request` and `model` must outlive the session. Throws when a
  /// rank's programs would issue other collectives than rank 0's (check_collective_order).
  Session(Communicator& world, Target& target, const CompileRequest& request, const CompiledModel& model,
          LoadHook after_load = nullptr);

  /// Sets every parameter (and its compute copy) from a source and zeroes the moments.
  void set_parameters(const ParameterSource& source);

  /// The micro-batch to fill, of rows() × slots() elements a field. What runs on it gets a copy first.
  HostBatch& micro_batch() { return batch_; }
  std::int64_t rows() const { return rows_; }
  std::int64_t slots() const { return slots_; }
  /// Global indices of this rank's slots in the padded sequence, for a sequence whose documents begin at `starts` and
  /// that has `length` tokens without padding: see TokenPlacement. Valid until the next call.
  std::span<const std::int32_t> order(std::span<const std::int32_t> starts, std::int32_t length) {
    return placement_.order(world_.rank(), starts, length);
  }
  TokenPlacement& placement() { return placement_; }
  /// This rank's place among those that hold different sequences, and their number.
  int data_rank() const { return data_rank_; }
  int data_ranks() const { return data_ranks_; }

  /// One optimizer step of `micro_batches`; fill(i) fills micro_batch() with the i-th (called twice for each unless
  /// there is one only: once to count, once to train). `step` counts from 1. Waits for the target once, where that is
  /// possible: the update is on its way before the loss is known. `only_learning`: without a valid token there is no
  /// update, and the norm is 0.
  StepResult step(std::int64_t step, double learning_rate, std::int64_t micro_batches,
                  const std::function<void(std::int64_t)>& fill, bool only_learning = false);
  /// Everything of a step but the update: gradients stay in their buffers.
  /// `after`, when given, is called with a micro-batch's number once its program has run, micro_batch() being still it.
  StepResult accumulate(std::int64_t micro_batches, const std::function<void(std::int64_t)>& fill,
                        const std::function<void(std::int64_t)>& after = nullptr);
  /// Fills micro_batch() with the i-th of a step and gives it to the target, as accumulate() does.
  void load(const std::function<void(std::int64_t)>& fill, std::int64_t i);
  /// Runs the update on the gradients that accumulate left.
  double update(std::int64_t step, double learning_rate);
  /// Sum of losses and count of valid tokens of micro_batch(), over all ranks.
  std::pair<double, double> evaluate();
  /// Each token's loss of micro_batch(), as the last program left them, rows() x slots(): only where the programs were
  /// compiled to give them (Meaning::evaluated_token_losses, trained_token_losses).
  void token_losses(std::vector<double>& losses) const;

  /// Masters and moments (what a checkpoint holds), compute copies and gradients.
  const std::vector<StateTensor>& state() const { return state_; }
  const StateTensor& state(std::string_view name) const;
  /// Elements [begin, end) of the whole tensor, which are among this rank's, in host memory: where they lie when the
  /// target shows them there, else copied into `room`.
  std::span<const std::byte> elements(const StateTensor& tensor, std::int64_t begin, std::int64_t end,
                                      std::vector<std::byte>& room);
  /// Copies elements, which are among this rank's, from the first of `to` on, or to them.
  void read(const StateTensor& tensor, std::int64_t begin, std::span<std::byte> to);
  void write(const StateTensor& tensor, std::int64_t begin, std::span<const std::byte> from);
  /// Gives this rank's elements of a tensor the values that `fill` puts into host memory for [begin, end) of the whole
  /// tensor: all at once where they lie when the target shows them there, else piece by piece.
  void fill_elements(const StateTensor& tensor, const ElementFill& fill);
  /// Whether elements() copies nothing.
  bool in_host_memory(const StateTensor& tensor) { return !executor_->host_view(tensor.name).empty(); }
  /// Which of its parts a rank holds of a state tensor: 0 for all when every rank holds the whole.
  int part_of(const StateTensor& tensor, int rank) const;
  /// The norm of the gradients that accumulate left, over all ranks: what update() will find. Collective.
  double gradient_norm();
  /// The whole tensor gathered from the ranks, as doubles (of moments in 8 bits the codes); collective.
  std::vector<double> gather(const StateTensor& tensor);
  /// After masters were changed from outside (a checkpoint was read): makes the compute copies again from `source`.
  void refresh_compute_copies(const ParameterSource& source);

  Executor& executor() { return *executor_; }
  Target& target() { return target_; }
  /// Whether labels are counted before they go to the device, and not by the program of that name: so a step waits for
  /// the device once, at its end.
  bool counts_on_host() const { return target_.has_own_memory(); }
  Communicator& world() { return world_; }

 private:
  void find_state();
  void upload();
  // The byte of a tensor's buffer at which element `begin` lies; `bytes` from there on must be this rank's.
  std::int64_t place(const StateTensor& tensor, std::int64_t begin, std::size_t bytes) const;
  double count(std::int64_t micro_batches, const std::function<void(std::int64_t)>& fill);
  // Everything of accumulate() and update() but what is read; returns the count of valid tokens.
  double queue_accumulation(std::int64_t micro_batches, const std::function<void(std::int64_t)>& fill,
                            const std::function<void(std::int64_t)>& after);
  void queue_update(std::int64_t step, double learning_rate);

  Communicator& world_;
  Target& target_;
  const CompileRequest& request_;
  const CompiledModel& model_;
  std::unique_ptr<Executor> executor_;
  HostBatch batch_;
  std::vector<StateTensor> state_;
  std::int64_t rows_ = 0, slots_ = 0;
  TokenPlacement placement_;
  LoadHook after_load_;
  int data_rank_ = 0, data_ranks_ = 1;
};

}  // namespace longhaul
