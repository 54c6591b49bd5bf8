// What verify finds: the outcome of a step, as comparable numbers, and how outcomes are held against each other.
#pragma once
#include <string>
#include <vector>

#include "compile/compile.h"
#include "run/session.h"
#include "verify/compare.h"

namespace longhaul {

/// Of one step: "loss", "grad_norm", gradients, moments after the update (none of those in 8 bits), and parameters in
/// float64.
struct StepOutcome {
  StepResult step;
  Tensors gradients, first_moments, second_moments, parameters;
};

struct VerificationRow {
  std::string name;  ///< "loss", "grad_norm", or a tensor
  double error = 0;  ///< as tensor_errors defines it; of a number: |a − b| / |b|; absolute for a parameter whose
                     ///< reference gradient is zero
  double limit = 0;  ///< what the error may be
  double norm = 0;   ///< of the reference
  bool holds() const { return error <= limit; }
};

/// Filled on rank 0; on the others only `differs` is.
struct VerificationReport {
  std::vector<VerificationRow> rows;  ///< worst first (error / limit)
  std::vector<std::string> problems;  ///< what else is wrong, one sentence each
  std::vector<std::string> notes;     ///< what a reader should know: reference gradients that are zero, ...
  std::vector<std::string> location;  ///< with `locate`: where the difference begins
  bool differs = false;

  /// The table, the problems and the verdict.
  std::string text() const;
};

/// Adds to the report the rows, notes and problems of the ranks' outcome against the reference's, and whether it
/// differs by anything in it. `alone` is the outcome of one rank in the run's dtype, by which low precision is judged;
/// null: in float64.
void compare(const CompileRequest& request, const StepOutcome& ranks, const StepOutcome& reference,
             const StepOutcome* alone, VerificationReport& report);

}  // namespace longhaul
