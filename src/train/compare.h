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
