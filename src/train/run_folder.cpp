#include "train/run_folder.h"

#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/host.h"
#include "base/log.h"
#include "base/system_error.h"
#include "comm/exchange.h"
#include "io/checkpoint.h"
#include "io/file.h"
#include "run/checkpointing.h"

namespace longhaul {

namespace fs = std::filesystem;

std::unique_ptr<RunLock> take_run_folder(Communicator& world, const fs::path& folder) {
  std::unique_ptr<RunLock> lock;
  phase(world, [&] {
    if (world.rank() != 0) return;
    std::error_code problem;
    if (fs::exists(folder, problem) && !fs::is_directory(folder, problem))
      fail("job.folder {} is not a folder; name one, or a path at which one can be made", folder.string());
    try {
      make_folders(folder.string());
    } catch (const SystemError& error) {
      fail("job.folder {} cannot be made: {}; name a folder that can be written", folder.string(), error.what());
    }
    lock = std::make_unique<RunLock>(folder.string());
  });
  std::string token = lock ? lock->token() : std::string(RunLock::token_length, ' ');
  world.broadcast(token.data(), token.size(), 0);
  phase(world, [&] {
    // Network file systems show a new file to other hosts late.
    for (int i = 0; RunLock::token_in(folder.string()) != token; ++i) {
      if (i == 100)
        fail(
            "on host {} the run folder {} is not the one that rank 0 has locked; job.folder must be one folder that "
            "all hosts see",
            host_name(), folder.string());
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
  });
  return lock;
}

std::int64_t find_resume_point(Communicator& world, const Experiment& experiment) {
  const fs::path& folder = experiment.job.folder;
  const fs::path checkpoints = folder / "checkpoints";
  bool used = false;
  const bool off = experiment.checkpoint.resume == ResumeMode::off;
  phase(world, [&] {
    try {
      std::error_code unreadable;
      used = !list_checkpoints(checkpoints.string()).empty() || fs::exists(folder / "metrics.jsonl", unreadable);
    } catch (const std::exception& error) {
      fail("job.folder {} cannot be read: {}", folder.string(), error.what());
    }
    if (off && used)
      fail(
          "job.folder {} already holds a run, and checkpoint.resume is off; use another folder, remove it, or set "
          "checkpoint.resume=auto",
          folder.string());
  });
  if (off) return -1;
  // Of runs that died; also when this one is finished and writes nothing.
  if (world.rank() == 0) {
    finish_interrupted_replacements(checkpoints.string());
    for (const char* part : {"", "checkpoints", "export"}) remove_leftovers((folder / part).string());
  }
  std::vector<std::string> skipped;
  const std::int64_t step = newest_valid_step(world, checkpoints.string(), skipped);
  for (const auto& reason : skipped) log_warn("skipped checkpoint {}", reason);
  if (step >= 0) log_info("resuming from step {} in {}", step, checkpoints.string());
  // All ranks know the same; together, so that one of them says it.
  if (step < 0 && !skipped.empty() && experiment.checkpoint.resume != ResumeMode::restart)
    phase(world, [&] {
      fail(
          "{} holds {} checkpoints and none of them is whole (the newest: {}): nothing was changed. To start again at "
          "step 0 all the same, set checkpoint.resume=restart; or use another job.folder",
          checkpoints.string(), skipped.size(), skipped.front());
    });
  if (step < 0 && used)
    log_warn(
        "{} holds metrics of an earlier run but no whole checkpoint: starting at step 0; they are kept in "
        "metrics-replaced.jsonl",
        folder.string());
  return step;
}

}  // namespace longhaul
