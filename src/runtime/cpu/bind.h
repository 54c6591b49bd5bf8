// Shorthands of the kernels_*.cpp files.
#pragma once
#include <utility>

#include "base/error.h"
#include "ir/op_definition.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/cpu/vector_table.h"
#include "runtime/bind.h"
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

/// Makes `kernel` a call of `function` with a copy of `settings` whose fields are connected to the call's buffers
/// (bind::connect). `function` is one of kernels/cpu, (pool, struct) or (pool, struct, vector table), or a reference,
/// (struct). Always true: what a candidate returns when it accepts.
template <class Struct, class Inputs, class Outputs, class Function>
bool run(CpuKernel& kernel, const Struct& settings, Inputs inputs, Outputs outputs, Function* function) {
  kernel.run = [=](const CpuCall& call) {
    Struct one = settings;
    connect(one, call, inputs, outputs);
    if constexpr (std::is_invocable_v<Function, const Struct&>)
      function(one);
    else if constexpr (std::is_invocable_v<Function, ThreadPool&, const Struct&>)
      function(call.context.pool(), one);
    else
      function(call.context.pool(), one, cpu::vector_table());
  };
  return true;
}
/// The same, of a fast form and its reference.
template <bool fast, class Struct, class Inputs, class Outputs, class Function, class Reference>
bool run(CpuKernel& kernel, const Struct& settings, Inputs inputs, Outputs outputs, Function* function,
         Reference* reference) {
  if constexpr (fast)
    return run(kernel, settings, inputs, outputs, function);
  else
    return run(kernel, settings, inputs, outputs, reference);
}

}  // namespace longhaul::bind
