// Shorthands of the kernels_*.cpp files.
#pragma once
#include <utility>

#include "base/error.h"
#include "ir/op_definition.h"
#include "runtime/cpu/kernel.h"

namespace longhaul::bind {

/// Product of all dimensions but the last; 1 for a scalar.
inline std::int64_t rows(const TensorType& type) {
  return type.shape.empty() ? 1 : type.count() / std::max<std::int64_t>(1, type.shape.back());
}
inline std::int64_t last(const TensorType& type) {
  return type.shape.empty() ? 1 : type.shape.back();
}

/// A kernel with a fast and a reference form: `Fast` and `Reference` are functions (const CpuProblem&, CpuKernel&,
/// std::string&) -> bool.
using Make = bool (*)(const CpuProblem&, CpuKernel&, std::string&);
inline std::vector<CpuCandidate> fast_and_reference(Make fast, Make reference) {
  return {{"fast", fast}, {"reference", reference}};
}
inline std::vector<CpuCandidate> only(Make make) {
  return {{"plain", make}};
}

}  // namespace longhaul::bind
