// What a run reads: its training and validation data, and the place in them that it goes on from.
#pragma once
#include <vector>

#include "comm/communicator.h"
#include "run/evaluation.h"
#include "run/session.h"
#include "run/setup.h"
#include "run/source.h"

namespace longhaul {

class TrainerData {
 public:
  /// Both must outlive this.
  TrainerData(Communicator& world, const RunSetup& setup) : world_(world), setup_(setup) {}

  /// Opens the files of both keys; part of a phase. Throws Error naming the key and the file.
  void open();
  /// Says what they are in the log. Collective.
  void report() const;

  const DataSource& training() const { return training_; }
  bool validates() const { return !validation_.empty(); }
  /// Every set, over validation.steps global batches. Collective.
  std::vector<ValidationResult> validate(Session& session);

  /// Samples of an epoch of the training data; 0 for a mixture.
  std::int64_t samples() const { return training_.sampler ? training_.sampler->samples() : 0; }

  /// Makes the training data go on from a checkpoint's places: what is left of an epoch whose samples were cut or
  /// shuffled in another way, and the next epoch where nothing is left. Sources are known by their names; when they or
  /// their weights are others, shares are counted from here on. Logs what follows.
  void go_on_from(std::vector<SourceCursor>& cursors);

 private:
  Communicator& world_;
  const RunSetup& setup_;
  void go_on(DataSource& source, DataCursor& cursor) const;

  DataSource training_;
  std::vector<DataSource> validation_;
};

}  // namespace longhaul
