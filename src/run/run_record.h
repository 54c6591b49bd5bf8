// The run folder's own account: run.json (every start: with what, where, what `auto` became, how it ended) and log.txt
// (what was logged), so that nobody needs the batch system's log.
#pragma once
#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "base/log.h"
#include "base/log_file.h"
#include "comm/communicator.h"
#include "run/setup.h"

namespace longhaul {

/// Rank 0 writes; the others' warnings go to log.txt too. A record that cannot be written never ends a run: it is said
/// once, as a warning.
class RunRecord {
 public:
  /// Begins this start's entry. Earlier starts stay in run.json; one that never said how it ended is marked so.
  /// Collective (every rank tells its host, process and CPU).
  RunRecord(Communicator& world, const RunSetup& setup);
  /// An entry that was not ended says that nothing is known of its end.
  ~RunRecord();

  /// The step that the run goes on from; 0: none.
  void resumed(std::int64_t step);
  /// A decision taken after the set-up.
  void decided(const std::string& decision);
  /// "finished", "stopped" or "failed", the last whole step, and why.
  void ended(const std::string& outcome, std::int64_t step, const std::string& reason);

 private:
  void write();

  const std::filesystem::path file_;
  std::unique_ptr<LogFile> log_;
  std::unique_ptr<nlohmann::ordered_json> json_;  // rank 0's; null elsewhere
};

}  // namespace longhaul
