// Kernels of the CPU back end: for every op an ordered list, reference last. Each may refuse a problem with a reason;
// the first that accepts is taken. src/runtime/cpu/kernels_*.cpp bind ops to the plain-pointer functions in
// kernels/cpu.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "ir/graph.h"

namespace longhaul {

class ThreadPool;
namespace cpu {
class MatmulLibraries;
}

/// What one rank stores of a value.
struct TensorType {
  Shape shape;
  DType dtype = DType::float64;
  std::int64_t count() const { return element_count(shape); }
  std::int64_t bytes() const { return count() * static_cast<std::int64_t>(size_of(dtype)); }
};

/// An op as a kernel sees it: local shapes, attributes, nothing of layouts.
struct KernelProblem {
  const Op& op;
  std::vector<TensorType> operands;
  std::vector<TensorType> results;
  int threads = 1;
  bool single_device = false;  // tensors are whole: ops whose meaning depends on blocks look at their attributes
  cpu::MatmulLibraries* libraries = nullptr;  // who computes matrix products; null: the first that takes them
};

struct KernelCall {
  const void* const* operands;
  void* const* results;
  void* scratch;
  ThreadPool& pool;
};

/// A kernel made for one problem; it serves one caller at a time.
struct Kernel {
  std::string name;
  std::size_t scratch_bytes = 0;
  std::function<void(const KernelCall&)> run;
};

struct KernelCandidate {
  std::string name;
  /// Fills `kernel` and returns true, or says why not.
  bool (*make)(const KernelProblem& problem, Kernel& kernel, std::string& refusal);
};

/// A static object in a kernels_*.cpp file lists the candidates of an op, fastest first, reference last.
struct KernelRegistration {
  KernelRegistration(std::string op, std::vector<KernelCandidate> candidates);
};
const std::vector<KernelCandidate>& kernel_candidates(const std::string& op);

/// The first candidate that accepts; with `reference_only`, the last of the list. Logs the choice and the refusals at
/// debug level. Throws Error when none accepts.
Kernel choose_kernel(const KernelProblem& problem, bool reference_only);

/// Shapes that a rank stores; with `single_device`, whole values.
KernelProblem kernel_problem(const Graph& graph, const Op& op, int threads, bool single_device);

}  // namespace longhaul
