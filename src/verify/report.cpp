#include "verify/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>

namespace longhaul {

void compare(const CompileRequest& request, const StepOutcome& ranks, const StepOutcome& reference,
             const StepOutcome* alone, VerificationReport& report) {
  const Precision& precision = request.options.precision;
  // Gradients are rounded to their own dtypes too; that of the reduction one rank alone never sees, and groups reduce
  // twice.
  const StateAxes axes = state_axes(request.mesh, request.options.placement);
  const double roundoff = unit_roundoff(precision.dtype),
               accumulated = std::max(roundoff, unit_roundoff(precision.gradient)),
               reductions = axes.shards.empty() || axes.replicas.empty() ? 1 : 2,
               reduced = std::max(accumulated, reductions * unit_roundoff(precision.gradient_reduce));
  double squares = 0;
  for (const auto& [name, wanted] : reference.gradients) squares += norm(wanted) * norm(wanted);
  const double whole = std::sqrt(squares);
  std::optional<LowPrecisionLimits> low;
  if (alone) low.emplace(alone->gradients, reference.gradients, reduced);
  const auto number = [&](const char* name, double StepResult::*member, double rounding) {
    const double wanted = reference.step.*member;
    const double limit =
        low ? low->of_number(relative_error(alone->step.*member, wanted), rounding) : tolerance::float64;
    report.rows.push_back({name, relative_error(ranks.step.*member, wanted), limit, std::abs(wanted)});
  };
  number("loss", &StepResult::loss, roundoff);
  number("grad_norm", &StepResult::grad_norm, reduced);
  for (const auto& [name, error] : tensor_errors(ranks.gradients, reference.gradients))
    report.rows.push_back(
        {name, error, low ? low->of_tensor(name) : tolerance::float64, norm(reference.gradients.at(name))});
  // Moments are rounded to a dtype of their own; the second one is a square, of which errors count
  // twice, and by its largest elements.
  const DType moment = precision.moment.value_or(precision.master());
  const auto moments = [&](Tensors StepOutcome::*member, double squared) {
    const Tensors &have = ranks.*member, &wanted = reference.*member;
    if (wanted.empty()) return;
    std::optional<LowPrecisionLimits> limits;
    const double rounding = std::max(squared * reduced, is_floating(moment) ? unit_roundoff(moment) : 0.0);
    if (alone) limits.emplace(alone->*member, wanted, rounding);
    for (const auto& [name, error] : tensor_errors(have, wanted))
      report.rows.push_back(
          {name, error, limits ? squared * limits->of_tensor(name) : tolerance::float64, norm(wanted.at(name))});
  };
  moments(&StepOutcome::first_moments, 1);
  moments(&StepOutcome::second_moments, 2);
  if (!is_floating(moment)) report.notes.push_back("moments that are kept in 8 bits are not compared");
  if (!reference.parameters.empty())  // of float64 runs only
    for (const auto& [name, error] : parameter_errors(ranks.parameters, reference.parameters, reference.gradients))
      report.rows.push_back({name, error, tolerance::float64, norm(reference.parameters.at(name))});
  std::stable_sort(report.rows.begin(), report.rows.end(), [](const VerificationRow& a, const VerificationRow& b) {
    return a.error / a.limit > b.error / b.limit;
  });

  std::string zero;
  for (const auto& [name, wanted] : reference.gradients)
    if (norm(wanted) <= tolerance::zero_tensor * whole) zero += (zero.empty() ? "" : ", ") + name;
  if (squares == 0)
    report.problems.push_back(
        "every reference gradient is zero, so nothing was compared; does the batch hold a label?");
  else if (!zero.empty())
    report.notes.push_back("reference gradients that are zero, of which the comparison says little: " + zero);
  if (low) {
    const double error = low->whole();
    const double most = tolerance::one_rank_roundoffs * accumulated;
    report.notes.push_back(
        fmt::format("{}: limits are twice the error of one rank of that dtype, a tensor's at least twice that of the "
                    "whole gradient ({:.3g}), all at least twice one rounding ({:.3g})",
                    name_of(precision.dtype), error, reduced));
    if (!(error <= most))
      report.problems.push_back(
          fmt::format("one rank of {} is itself off by {:.3g} of the whole gradient, more than {:.3g}: a defect that "
                      "all ranks share",
                      name_of(precision.dtype), error, most));
  }
  if (ranks.step.valid_tokens != reference.step.valid_tokens)
    report.problems.push_back(fmt::format("the ranks count {} valid tokens, the specification {}",
                                          ranks.step.valid_tokens, reference.step.valid_tokens));
  report.differs = !report.problems.empty() ||
                   std::any_of(report.rows.begin(), report.rows.end(), [](const auto& row) { return !row.holds(); });
}

std::string VerificationReport::text() const {
  constexpr std::size_t shown = 20, most = 100;
  std::string text = fmt::format("  {:44} {:>12} {:>12} {:>14}\n", "worst first", "error", "limit", "reference norm");
  std::size_t beyond = 0, tensors = 0;
  for (const auto& row : rows) beyond += !row.holds();
  for (const auto& row : rows) {
    const bool number = row.name == "loss" || row.name == "grad_norm";
    if (!number && ++tensors > std::max(shown, std::min(beyond, most))) continue;
    text += fmt::format("{} {:44} {:12.3e} {:12.3e} {:14.6e}\n", row.holds() ? " " : "!", row.name, row.error,
                        row.limit, row.norm);
  }
  if (tensors > shown) text += fmt::format("  ({} rows in all)\n", rows.size());
  for (const auto& note : notes) text += "note: " + note + "\n";
  for (const auto& problem : problems) text += "differs: " + problem + "\n";
  for (const auto& place : location) text += "located: " + place + "\n";
  text += differs ? fmt::format("NOT verified: {} of {} rows are beyond their limit{}\n", beyond, rows.size(),
                                problems.empty() ? "" : fmt::format(", and {} other problem(s)", problems.size()))
                  : fmt::format("verified: {} rows within their limits\n", rows.size());
  return text;
}

}  // namespace longhaul
