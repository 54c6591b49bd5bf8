// How two runs are compared, and how much they may differ. All tolerances of the project are in this file; a change
// needs its own commit and reason.
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
/// float32 and bfloat16: at most this many times the larger of one rank's error and the dtype's unit roundoff.
inline constexpr double ratio_to_one_rank = 2;
/// One rank in float32 or bfloat16 against the specification, the whole gradient together: at most this many unit
/// roundoffs. Wide on purpose (rounding grows with depth and S): only a defect that all ranks share exceeds it.
inline constexpr double one_rank_roundoffs = 64;
/// Where a difference begins is named by a limit of its own, in unit roundoffs of the coarsest dtype that is involved
/// (float64 runs: `float64`). It decides what --locate says, never whether a run is verified.
inline constexpr double locate_roundoffs = 64;
/// Unpatched Hugging Face transformers, which rounds to float32 inside norms, softmax, loss and RoPE.
inline constexpr double transformers_float32 = 1e-5;
}  // namespace tolerance

using Tensors = std::map<std::string, std::vector<double>>;

/// The error of a tensor: ‖a − b‖ / max(‖b‖, 1e-3·‖g‖·√(n/N)), g all reference tensors together (N elements), n the
/// tensor's: some gradients are zero by symmetry, and rounding in them must not count as an error without bound. NaN
/// counts as infinite.
std::map<std::string, double> tensor_errors(const Tensors& tensors, const Tensors& reference);
double norm(const std::vector<double>& values);

}  // namespace longhaul
