// Every call on the files of a run folder, of a resume and of two saves, fails or kills the run: a sample in each
// ctest, all of them on demand:
//   build/tests/test_faults "[.matrix]"        (or ctest -C matrix -L matrix)
#include <iostream>

#include "injected.h"

using namespace longhaul::testing;

namespace {

// What a call may be told, by what it does. Signals interrupt only calls that wait.
std::vector<std::string> actions_for(const std::string& name) {
  std::vector<std::string> list = {"kill", "killed_after", std::to_string(EIO)};
  const auto add = [&](std::initializer_list<int> codes) {
    for (const int code : codes) list.push_back(std::to_string(code));
  };
  if (name == "open" || name == "openat" || name == "fopen") add({EMFILE, ENOMEM, ESTALE, EACCES, ENOSPC});
  if (name == "open" || name == "fsync" || name == "close") add({EINTR});
  if (name.starts_with("pwrite") || name == "write") {
    add({ENOSPC, EINTR, EDQUOT});
    list.emplace_back("short");
  }
  if (name.starts_with("pread") || name == "read") {
    add({ESTALE, EINTR});
    list.emplace_back("short");
  }
  if (name == "fallocate") add({ENOSPC, EINTR, EOPNOTSUPP});
  if (name.starts_with("rename")) add({ENOSPC, EINVAL});
  if (name == "mkdir") add({ENOSPC, EACCES});
  if (name == "fsync") add({ENOSPC, EINVAL});
  return list;
}

struct Case {
  long at;
  std::string action;
};

std::vector<Case> all_cases(const std::vector<Call>& calls) {
  std::vector<Case> list;
  for (std::size_t i = 0; i < calls.size(); ++i)
    for (const auto& action : actions_for(calls[i].name)) list.push_back({static_cast<long>(i) + 1, action});
  return list;
}

void try_cases(FaultyRuns& runs, const std::vector<Call>& calls, const std::vector<Case>& cases) {
  std::map<std::string, int> count;
  for (const auto& one : cases) {
    const Call& call = calls[static_cast<std::size_t>(one.at) - 1];
    INFO("call " << one.at << " of " << calls.size() << ", " << call.name << " " << call.path << ": " << one.action);
    const bool killed = one.action.starts_with("kill");
    const Ended ended = runs.go_on({.at = one.at, .action = one.action});
    runs.check_recovery(ended, killed);
    ++count[killed ? "kills" : ended.code == 0 ? "faults that the run survived" : "faults that ended it"];
    // What a signal interrupts or cuts short nobody must notice.
    if (one.action == std::to_string(EINTR) || one.action == "short") CHECK(ended.code == 0);
  }
  for (const auto& [what, number] : count) std::cout << number << " " << what << "\n";
  std::cout << cases.size() << " of " << all_cases(calls).size() << " cases, " << calls.size() << " calls\n";
}

}  // namespace

TEST_CASE("a fault at a call of a resume or a save, or death there, loses nothing") {
  if (!can_inject()) return;
  FaultyRuns runs;
  runs.check_recovery(runs.go_on({}), false);
  const auto calls = runs.calls();
  REQUIRE(calls.size() > 60);
  const auto all = all_cases(calls);
  // Another prime, another sample.
  std::vector<Case> sample;
  for (std::size_t i = 0; i < 24; ++i) sample.push_back(all[i * 7919 % all.size()]);
  try_cases(runs, calls, sample);
}

TEST_CASE("a fault or death at every call of a resume and of saves", "[.matrix]") {
  if (!can_inject()) return;
  FaultyRuns runs;
  runs.go_on({});
  const auto calls = runs.calls();
  try_cases(runs, calls, all_cases(calls));
}
