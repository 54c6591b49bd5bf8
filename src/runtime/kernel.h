// Kernels of a back end: for every op an ordered list of candidates, reference last. Each may refuse a problem with a
// reason; the first that accepts is taken. A back end is a `Context`: what its kernels are made for and run with, and
// its name. Each binds ops to its functions in files of its own (src/runtime/cpu/kernels_*.cpp) and has its own table.
#pragma once
#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "ir/graph.h"

namespace longhaul {

/// What one rank stores of a value.
struct TensorType {
  Shape shape;
  DType dtype = DType::float64;
  std::int64_t count() const { return element_count(shape); }
  std::int64_t bytes() const { return count() * static_cast<std::int64_t>(size_of(dtype)); }
};

/// An op as a kernel sees it: local shapes, attributes, nothing of layouts. The op must outlive it.
struct LocalOp {
  const Op& op;
  std::vector<TensorType> operands;
  std::vector<TensorType> results;
  bool single_device = false;  // tensors are whole: ops whose meaning depends on blocks look at their attributes

  /// Shapes that a rank stores; with `single_device`, whole values.
  LocalOp(const Graph& graph, const Op& op, bool single_device);
  const std::string& name() const;  // of the op
  /// "rms_norm(float32[2,8], ...)" for people.
  std::string text() const;
  /// Everything that a kernel may depend on: ops of the same key are served by the same kernel.
  std::string key() const;
};

template <class Context>
struct KernelProblem : LocalOp {
  Context& context;
  KernelProblem(const Graph& graph, const Op& one, bool whole, Context& of) : LocalOp(graph, one, whole), context(of) {}
};

template <class Context>
struct KernelCall {
  const void* const* operands;
  void* const* results;
  void* scratch;
  Context& context;
};

/// A kernel made for one problem; it serves one caller at a time.
template <class Context>
struct Kernel {
  std::string name;
  std::size_t scratch_bytes = 0;
  /// What it calls was not settled for the run yet (a library of matrix products): KernelCache::settle drops it.
  bool provisional = false;
  std::function<void(const KernelCall<Context>&)> run;
};

template <class Context>
struct KernelCandidate {
  std::string name;
  /// Fills `kernel` and returns true, or says why not. The kernel may refer to the context, not to the problem's op.
  bool (*make)(const KernelProblem<Context>& problem, Kernel<Context>& kernel, std::string& refusal);
};

/// A back end's candidates by op, filled before main and read only afterwards.
template <class Context>
class KernelTable {
 public:
  static KernelTable& instance() {
    static KernelTable table;
    return table;
  }
  void add(const std::string& op, std::vector<KernelCandidate<Context>> candidates) {
    LONGHAUL_CHECK(candidates_.emplace(op, std::move(candidates)).second, "{} kernels of {} are registered twice",
                   Context::name, op);
  }
  const std::vector<KernelCandidate<Context>>& candidates(const std::string& op) const {
    const auto it = candidates_.find(op);
    LONGHAUL_CHECK(it != candidates_.end(), "no {} kernel for op {}", Context::name, op);
    return it->second;
  }
  /// The first candidate that accepts; with `reference_only`, the last of the list. Logs the choice and the refusals at
  /// debug level. Throws Error when none accepts.
  Kernel<Context> choose(const KernelProblem<Context>& problem, bool reference_only) const {
    const auto& list = candidates(problem.name());
    std::string refusals;
    for (std::size_t i = reference_only ? list.size() - 1 : 0; i < list.size(); ++i) {
      Kernel<Context> kernel;
      std::string reason;
      if (list[i].make(problem, kernel, reason)) {
        if (kernel.name.empty()) kernel.name = list[i].name;
        log_debug("kernel {} for {}{}", kernel.name, problem.text(), refusals);
        return kernel;
      }
      refusals += fmt::format("; {} refused: {}", list[i].name, reason);
    }
    fail("no kernel takes {}{}", problem.text(), refusals);
  }

 private:
  std::map<std::string, std::vector<KernelCandidate<Context>>> candidates_;
};

/// A static object in a back end's kernels_*.cpp lists the candidates of an op, fastest first, reference last.
template <class Context>
struct KernelRegistration {
  KernelRegistration(const std::string& op, std::vector<KernelCandidate<Context>> candidates) {
    KernelTable<Context>::instance().add(op, std::move(candidates));
  }
};

/// The kernels that a rank has chosen: each problem's once, whoever asks (planning for its scratch, the executor to run
/// it). Equal layers share one. It serves one caller at a time, as its kernels do.
template <class Context>
class KernelCache {
 public:
  /// `context` must outlive the cache.
  KernelCache(Context& context, bool reference_only) : context_(context), reference_only_(reference_only) {}

  /// The kernel for an op on one rank's tensors (see LocalOp). Throws Error when none takes it.
  std::shared_ptr<const Kernel<Context>> get(const Graph& graph, const Op& op, bool single_device = false) {
    const KernelProblem<Context> problem(graph, op, single_device, context_);
    std::string key = problem.key();
    if (const auto known = kernels_.find(key); known != kernels_.end()) return known->second;
    auto kernel = std::make_shared<Kernel<Context>>(KernelTable<Context>::instance().choose(problem, reference_only_));
    ++chosen_;
    return kernels_.emplace(std::move(key), std::move(kernel)).first->second;
  }
  /// Forgets what was made before the context's choices were settled.
  void settle() {
    std::erase_if(kernels_, [](const auto& entry) { return entry.second->provisional; });
  }
  /// How many kernels have been chosen.
  std::int64_t chosen() const { return chosen_; }

 private:
  Context& context_;
  const bool reference_only_;
  std::unordered_map<std::string, std::shared_ptr<const Kernel<Context>>> kernels_;
  std::int64_t chosen_ = 0;
};

}  // namespace longhaul
