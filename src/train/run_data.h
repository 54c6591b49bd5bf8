// What a run reads: its training and validation data, and the place in them that it goes on from.
#pragma once
#include <optional>

#include "comm/communicator.h"
#include "run/session.h"
#include "run/setup.h"
#include "run/source.h"

namespace longhaul {

class RunData {
 public:
  /// Both must outlive this.
  RunData(Communicator& world, const RunSetup& setup) : world_(world), setup_(setup) {}

  /// Opens the files of both keys; part of a phase. Throws Error naming the key and the file.
  void open();
  /// Says what they are in the log. Collective.
  void report() const;

  const DataSource& training() const { return training_; }
  bool validates() const { return validation_.dataset != nullptr; }
  /// The mean loss over the labels of validation.steps global batches; none without a label. Collective.
  std::optional<double> validate(Session& session);

  /// Makes the training data go on from a checkpoint's place: what is left of an epoch whose samples were cut or
  /// shuffled in another way, and the next epoch where nothing is left. Logs what follows.
  void go_on_from(DataCursor& cursor);

 private:
  Communicator& world_;
  const RunSetup& setup_;
  DataSource training_, validation_;
};

}  // namespace longhaul
