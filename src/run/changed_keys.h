// A run that goes on with other values than it had: which, and whether they matter.
#pragma once
#include <string>
#include <vector>

#include "config/experiment.h"
#include "run/checkpointing.h"
#include "run/setup.h"

namespace longhaul {

struct ChangedKey {
  std::string key, before, now;  ///< values as YAML
};

/// Keys whose values differ between an earlier resolved experiment (YAML, as a checkpoint holds it) and this one, in
/// the order of the documentation; job.name and job.folder, which say where and not what, are left out. A key that the
/// earlier one did not know counts as having had its default. Throws Error when it cannot be read.
std::vector<ChangedKey> changed_keys(const std::string& before, const Experiment& now);

/// Whether another value may change a run's numbers beyond the order of additions: not how often something is saved,
/// logged, tried or watched, nor where and how it runs.
bool decides_numbers(const std::string& key);

/// A finished folder is no answer to who asks for another run: throws Error naming the keys that decide numbers and are
/// not those of its last checkpoint (training.steps apart).
void refuse_other_experiment(const Checkpoint& checkpoint, const RunSetup& setup);

/// What is other than when a checkpoint was written, and what follows from it; "" when nothing that decides numbers is.
/// What does not is logged only. With another training.seq_len or training.seed the state's cursors become the begin of
/// what is left of the epoch; with other data, the sample so many tokens behind their begin. `samples`: of the training
/// data now, when they are no mixture.
std::string take_changes(TrainerState& state, const RunSetup& setup, std::int64_t samples);

/// "training.lr 0.1 (was 0.2), ..."
std::string list_of(const std::vector<ChangedKey>& keys);

}  // namespace longhaul
