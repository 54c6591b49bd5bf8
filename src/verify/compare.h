// How two runs are compared, and how much they may differ. All tolerances by which runs are judged are in this file
// (what a single kernel may round by stands in its test); a change needs its own commit and reason.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "base/dtype.h"

namespace longhaul {

namespace tolerance {
/// float64, any number of ranks against the specification: every gradient tensor, the loss, parameters after several
/// steps.
inline constexpr double float64 = 1e-10;
/// float32 and bfloat16: at most this many times one rank's error (see LowPrecisionLimits).
inline constexpr double ratio_to_one_rank = 2;
/// The error of one rank in the loss or the gradient norm counts as no smaller than this many unit roundoffs: one
/// number can be right by luck.
inline constexpr double number_roundoffs = 2;
/// One rank in float32 or bfloat16 against the specification, the whole gradient together: at most this many unit
/// roundoffs. Wide on purpose (rounding grows with depth and S): only a defect that all ranks share exceeds it.
inline constexpr double one_rank_roundoffs = 64;
/// Where a difference begins is named by a limit of its own, in unit roundoffs of the coarsest dtype that is involved
/// (float64 runs: `float64`). It decides what --locate says, never whether a run is verified.
inline constexpr double locate_roundoffs = 64;
/// Unpatched Hugging Face transformers, which rounds to float32 inside norms, softmax, loss and RoPE.
inline constexpr double transformers_float32 = 1e-5;
/// Gradients below this part of the root mean square of all of them together are zero but for rounding.
inline constexpr double zero_gradient = 1e-6;
/// Parameters after an update, where the gradient is below this part of that root mean square: Adam's step g/(|g| + ε)
/// amplifies rounding δg of the gradient to ε·δg/(|g| + ε)², which for ε = 1e-8 and |g| of 1e-6 of the others exceeds
/// `float64` (found by random experiment seed=202 of 25,000: 4e-9 of a bias whose gradient was right to 3e-15).
inline constexpr double small_gradient = 1e-4;
/// A tensor's error counts by no smaller norm than this part of the root mean square of all elements together, times
/// √n for its n elements.
inline constexpr double floor_of_norm = 1e-3;
/// A gradient tensor of at most this part of the whole gradient's norm is named as zero: comparing it says little.
inline constexpr double zero_tensor = 1e-12;
}  // namespace tolerance

using Tensors = std::map<std::string, std::vector<double>>;

/// The error of a tensor: ‖a − b‖ / max(‖b‖, `floor_of_norm`·‖g‖·√(n/N)), g all reference tensors together (N
/// elements), n the tensor's: some gradients are zero by symmetry, and rounding in them must not count as an error
/// without bound. NaN counts as infinite.
std::map<std::string, double> tensor_errors(const Tensors& tensors, const Tensors& reference);
/// The same of parameters after an update, by the reference gradients before it (under their buffers' names).
/// Adam divides a gradient by its own size: where that is zero by symmetry the step is rounding over rounding. So
/// elements whose gradient is below `small_gradient` count by their absolute difference; the larger of the two is the
/// error.
std::map<std::string, double> parameter_errors(const Tensors& parameters, const Tensors& reference,
                                               const Tensors& gradients);

/// What ranks in float32 or bfloat16 may differ from the specification: `ratio_to_one_rank` times one rank's error in
/// that dtype. Of a number it counts as no smaller than `number_roundoffs`; of a tensor as no smaller than the dtype's
/// unit roundoff and than one rank's error in the whole gradient, as a tensor of few elements can be right by luck. A
/// gradient that is zero by symmetry has only rounding to compare, and ranks that add in another order have more of it:
/// that may reach `one_rank_roundoffs` of the size that tensor_errors counts it by.
class LowPrecisionLimits {
 public:
  /// The gradients of one rank and of the specification, by the same names.
  LowPrecisionLimits(const Tensors& one_rank, const Tensors& reference, double roundoff);
  /// One rank's error in the whole gradient.
  double whole() const { return whole_; }
  /// `roundoff`: of the dtype that the number comes from.
  double of_number(double error_of_one, double roundoff) const;
  double of_tensor(const std::string& name) const { return tensors_.at(name); }

 private:
  double whole_ = 0;
  std::map<std::string, double> tensors_;
};

/// |a − b| / |b|; NaN counts as infinite.
double relative_error(double value, double reference);
double norm(const std::vector<double>& values);

}  // namespace longhaul
