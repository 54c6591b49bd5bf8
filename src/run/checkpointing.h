// A session's state from the checkpoint store, for any number of ranks and however they shard it; into it:
// checkpoint_saver.h.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "data/mixture.h"
#include "io/checkpoint.h"
#include "model/spec.h"
#include "run/session.h"
#include "run/setup.h"

namespace longhaul {

/// What a checkpoint holds besides tensors.
struct TrainerState {
  std::int64_t step = 0;              // finished steps
  std::vector<SourceCursor> sources;  // the place in each; one without a name: data.files; none: at the beginning
  std::uint64_t data_seed = 0;
  std::uint64_t init_seed = 0;
  std::string experiment;                // resolved, as YAML, for people
  std::string model;                     // the spec, as JSON
  std::string libraries;                 // of matrix products (choices_text)
  std::string bad_steps;                 // BadSteps::state; empty in most runs
  std::int64_t steps_without_label = 0;  // finished, but nothing was updated in them
  TextReading text;                      // what made tokens of text, when it did
};

/// What a checkpoint holds of a session's state: masters and moments.
bool is_saved(Role role);

/// TrainerState::libraries of a checkpoint.
std::string checkpoint_libraries(const Checkpoint& checkpoint);

/// TrainerState::experiment of a checkpoint. Throws Error when its state is garbled.
std::string checkpoint_experiment(const Checkpoint& checkpoint);

/// TrainerState::text of a checkpoint.
TextReading checkpoint_text(const Checkpoint& checkpoint);

/// Throws Error when the checkpoint's state is garbled.
TrainerState trainer_state(const Checkpoint& checkpoint);

/// Reads masters and moments (each rank its own ranges) and makes the compute copies; collective.
TrainerState load_checkpoint(Session& session, const Checkpoint& checkpoint);

/// Throws Error when the checkpoint is of another model: equal shapes may still compute other things (RoPE, windows,
/// how heads are cut). What no step depends on may differ: initializer_range, max_positions without a learned table.
void refuse_other_model(const TrainerState& state, const TransformerSpec& spec, const std::string& checkpoint);

/// The newest checkpoint that is whole and whose checksums hold, its step agreed by all ranks (each verifies a share of
/// the bytes), and the reasons why newer ones were skipped; -1 when there is none. Collective. Damage is skipped;
/// throws Error on every rank when the system does not let a checkpoint be read or a newer version of the program wrote
/// it.
std::int64_t newest_valid_step(Communicator& world, const std::string& folder, std::vector<std::string>& skipped);

}  // namespace longhaul
