// A training run in which one call on the files of its run folder fails, or is the last: inject.c.
#pragma once
#include <sstream>

#include "../cli/program.h"
#include "base/sanitizers.h"

namespace longhaul::testing {

/// What is to happen. INJECT_ONLY and INJECT_CALLS narrow what counts, see inject.c.
struct Fault {
  long at = 0;  ///< 0: nothing happens, calls are only listed
  std::string action = "kill";
  long repeat = 1;
  std::string only = {}, calls = {};
};

struct Call {
  std::string name, path;
};

inline std::string inject_library() {
  return (fs::path(environment("LONGHAUL_BINARY")).parent_path() / "tests/liblonghaul_inject.so").string();
}

/// True where a library can be loaded before all others: not with a sanitizer's runtime.
constexpr bool can_inject() {
#if defined(LONGHAUL_ADDRESS_SANITIZER) || defined(LONGHAUL_THREAD_SANITIZER)
  return false;
#else
  return true;
#endif
}

inline std::vector<std::string> fault_environment(const Fault& fault, const fs::path& folder, const fs::path& log) {
  std::vector<std::string> list = {"LD_PRELOAD=" + inject_library(),
                                   "INJECT_UNDER=" + folder.string(),
                                   "INJECT_AT=" + std::to_string(fault.at),
                                   "INJECT_ACTION=" + fault.action,
                                   "INJECT_REPEAT=" + std::to_string(fault.repeat),
                                   "INJECT_LOG=" + log.string()};
  if (!fault.only.empty()) list.push_back("INJECT_ONLY=" + fault.only);
  if (!fault.calls.empty()) list.push_back("INJECT_CALLS=" + fault.calls);
  return list;
}

inline std::vector<Call> calls_of(const fs::path& log) {
  std::vector<Call> calls;
  std::istringstream lines(read_file(log));
  for (std::string number, name, path; lines >> number >> name && std::getline(lines >> std::ws, path);)
    calls.push_back({name, path});
  return calls;
}

/// A workplace whose run stands at step 2 with a checkpoint and goes on to step 4, saving at each step.
class FaultyRuns {
 public:
  explicit FaultyRuns(std::vector<std::string> more = {}) : more_(std::move(more)) {
    if (!fs::exists(inject_library()))
      throw std::runtime_error(inject_library() + " is missing: build longhaul_inject");
    check_end(run_train(place, arguments("template", 2)), 0, {});
    fs::copy(place / "template", place / "whole", fs::copy_options::recursive);
    check_end(run_train(place, arguments("whole", 4)), 0, {"resuming from step 2"});
    expected_ = losses_of(place / "whole");
    REQUIRE(expected_.size() == 4);
  }

  const Workplace place;
  fs::path run() const { return place / "run"; }

  std::vector<std::string> arguments(const std::string& name, int steps) const {
    std::vector<std::string> list = {"job.folder=" + (place / name).string(), "training.steps=" + std::to_string(steps),
                                     "lr_scheduler.decay_type=constant", "checkpoint.interval=1",
                                     "checkpoint.keep_latest_k=2"};
    list.insert(list.end(), more_.begin(), more_.end());
    return list;
  }

  /// From the state at step 2 on, with the fault.
  Ended go_on(const Fault& fault) {
    fs::remove_all(run());
    fs::copy(place / "template", run(), fs::copy_options::recursive);
    fs::remove(place / "calls");
    return run_train(place, arguments("run", 4), fault_environment(fault, run(), place / "calls"));
  }
  std::vector<Call> calls() const { return calls_of(place / "calls"); }

  /// What holds after a run that a fault has hit: it ended by itself or was killed, and no line of metrics is lost;
  /// started again it goes on from step 2 or later and ends with the bits of a run that nothing hit, without leftovers.
  void check_recovery(const Ended& ended, bool killed) {
    INFO(ended.output);
    const bool ended_well =
        killed ? ended.code == 128 + SIGKILL || ended.code == 0 : ended.code == 0 || ended.code == 1;
    CHECK(ended_well);
    CHECK_THAT(ended.output, !Catch::Contains("internal error"));
    const std::string lines = read_file(run() / "metrics.jsonl") + read_file(run() / "metrics-replaced.jsonl");
    std::istringstream before(read_file(place / "template/metrics.jsonl"));
    for (std::string line; std::getline(before, line);) CHECK_THAT(lines, Catch::Contains(line));

    const Ended again = run_train(place, arguments("run", 4));
    INFO(again.output);
    CHECK(again.code == 0);
    const bool from_a_checkpoint = again.output.find("resuming from step 2") != std::string::npos ||
                                   again.output.find("resuming from step 3") != std::string::npos ||
                                   again.output.find("resuming from step 4") != std::string::npos;
    CHECK(from_a_checkpoint);
    CHECK(losses_of(run()) == expected_);
    for (const auto& item : fs::recursive_directory_iterator(place / "whole")) {
      if (!item.is_regular_file()) continue;
      const std::string name = fs::relative(item.path(), place / "whole").string();
      // Text with times or the folder's name in it; what counts of it is compared above.
      if (name.starts_with("metrics") || name == "experiment.yaml" || name == "run.json" || name == "log.txt" ||
          name.ends_with("manifest.json"))
        continue;
      if (name.starts_with("checkpoints") && !fs::exists((run() / name).parent_path())) continue;
      INFO(name);
      CHECK(read_file(run() / name) == read_file(item.path()));
    }
    // One before it may be missing (the disk refused it and the run went on), or not be removed yet.
    const auto left = checkpoints_of(run());
    REQUIRE(!left.empty());
    CHECK(left.back() == "step-00000004");
    for (const auto& item : fs::recursive_directory_iterator(run())) {
      const std::string name = item.path().filename().string();
      INFO(item.path());
      CHECK_FALSE((name.starts_with(".tmp-") || name.ends_with(".partial")));
    }
  }

 private:
  std::vector<std::string> more_;
  std::map<std::int64_t, double> expected_;
};

}  // namespace longhaul::testing
