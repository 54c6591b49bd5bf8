// A session's state into the checkpoint store, for any number of ranks: while training waits, or while it goes on.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "io/checkpoint.h"
#include "run/checkpointing.h"
#include "run/session.h"

namespace longhaul {

/// Collective. Empty when the checkpoint is written. When the system refuses (a full disk, a server that does not
/// answer) its reason, the same on every rank; on any other failure every rank throws. In both cases earlier
/// checkpoints are as they were.
std::string save_checkpoint(Session& session, CheckpointStore& store, const TrainerState& state);

/// How a save ended.
struct SaveOutcome {
  std::int64_t step = 0;
  std::string refused;  // empty: the checkpoint is written; else as save_checkpoint gives it
};

/// Saves one checkpoint at a time, each by a thread of every rank that writes a copy of its state, made in host memory
/// when the save begins; bit for bit the files of save_checkpoint. All functions but the destructor are collective.
class AsynchronousSaver {
 public:
  /// Allocates the copy: copy_bytes() of each rank, kept for the run. Both must outlive the saver.
  AsynchronousSaver(Session& session, CheckpointStore& store);
  AsynchronousSaver(const AsynchronousSaver&) = delete;
  AsynchronousSaver& operator=(const AsynchronousSaver&) = delete;
  /// Waits for the thread. A save that nobody has finished is given up; its temporary folder goes.
  ~AsynchronousSaver();

  /// Bytes of host memory that the copy of this rank's state takes.
  static std::int64_t copy_bytes(Session& session);

  /// Copies the state and begins to write it. Nothing may be running: call finish() first. An outcome at once when the
  /// system refuses before anything is written.
  std::optional<SaveOutcome> start(const TrainerState& state);
  /// The outcome of the save that is running once every rank has written its part, which also commits it; none while
  /// one is still writing, or when none runs. Then it costs one all_gather of 4 bytes, otherwise nothing.
  std::optional<SaveOutcome> poll();
  /// Waits for the save that is running, if there is one, and commits it.
  std::optional<SaveOutcome> finish();
  bool running() const { return step_ >= 0; }

 private:
  SaveOutcome complete();

  Session& session_;
  CheckpointStore& store_;
  std::vector<std::byte> copy_;
  std::vector<ShardEntry> entries_;  // of the copy
  std::int64_t step_ = -1;           // of the running save; -1: none
  std::string state_text_;
  std::thread thread_;
  std::atomic<bool> written_{false};
  // What the thread leaves.
  std::string fragment_, refused_;
  std::exception_ptr failure_;
};

}  // namespace longhaul
