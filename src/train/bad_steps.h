// Which steps are not to be learned from: losses and gradient norms that are not finite, or far above the last ones.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "config/experiment.h"

namespace longhaul {

/// Numbers that are equal on all ranks go in, so that all decide alike.
class BadSteps {
 public:
  static constexpr std::size_t window = 128;

  explicit BadSteps(const Experiment& experiment)
      : allowed_(experiment.training.max_bad_steps), sigmas_(experiment.training.outlier_sigmas) {}

  /// False: every step is taken, and the trainer itself stops at what is not finite.
  bool active() const { return allowed_ > 0; }
  /// Why a step is bad: "the loss is nan", "the gradient norm 31.2 is 9.1 standard deviations above ..."; empty: it is
  /// not.
  std::string judge_loss(double loss) const { return judge("loss", loss, losses_); }
  std::string judge_norm(double norm) const { return judge("gradient norm", norm, norms_); }

  void took(double loss, double norm);
  /// A step was skipped. Throws Error when that makes max_bad_steps in a row.
  void skipped(std::int64_t step, const std::string& reason, const std::string& last_checkpoint);
  /// In all, checkpoints included.
  std::int64_t skipped_steps() const { return total_; }

  /// For a checkpoint: a resumed run decides as one that was not interrupted. Empty while inactive.
  std::string state() const;
  /// Throws Error when the text is garbled; empty: nothing has been seen.
  void restore(const std::string& state);

 private:
  std::string judge(const char* what, double value, const std::vector<double>& seen) const;

  std::int64_t allowed_, in_row_ = 0, total_ = 0;
  double sigmas_;
  std::vector<double> losses_, norms_;  // of the last good steps, in a circle
  std::size_t next_ = 0;
};

}  // namespace longhaul
