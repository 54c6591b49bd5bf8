// What `longhaul plan` says: gathered once, printed as text or JSON.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "planner/longest_sequence.h"
#include "planner/planned_run.h"

namespace longhaul {

struct PlanReport {
  std::string experiment;  ///< as the user named it
  PlannedRun run;
  std::vector<Outlook> outlooks;  ///< with 10 GB more and 10 GB less
  std::vector<OtherRun> others;
  std::optional<LongestSequence> longest;
  std::vector<ComparedPlan> compared;
};

/// What 10 GB (10^10 bytes) more and less would give, where activations are chosen by memory.
std::vector<Outlook> outlooks_beside(const PlannedRun& run);

std::string plan_text(const PlanReport& report);
/// One JSON object; bytes and tokens are integers, seconds and shares numbers, what is not known null.
std::string plan_json(const PlanReport& report);

}  // namespace longhaul
