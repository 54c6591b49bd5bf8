// The specification, run: the joint graph as it was before any pass that knows of ranks, in float64, with reference
// kernels, on one device. The oracle.
#pragma once
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "run/session.h"
#include "runtime/cpu/interpreter.h"

namespace longhaul {

class ReferenceRun {
 public:
  /// For micro-batches of `batch` sequences, of `sequence` tokens without padding.
  ReferenceRun(const TransformerSpec& spec, const Meaning& meaning, std::int64_t batch, std::int64_t sequence);

  /// Starts from the numbers that a run's masters hold, which are of `dtype` (Precision::master()), moments from zero.
  void set_parameters(const ParameterSource& source, DType dtype);

  /// Micro-batches as the whole model sees them: [batch, sequence] each, not padded, not split.
  StepResult accumulate(const std::vector<HostBatch>& micro_batches);
  double update(std::int64_t step, double learning_rate);
  StepResult step(std::int64_t step, double learning_rate, const std::vector<HostBatch>& micro_batches);

  /// By the names of their buffers: parameters, moments, and what the last step's programs left of gradients.
  const std::map<std::string, HostTensor>& state() const { return state_; }
  std::vector<double> values(const std::string& name) const;

 private:
  std::map<std::string, HostTensor> inputs(const Graph& graph, const HostBatch* batch) const;
  const Graph& graph(ProgramKind kind);

  CompileRequest request_;
  std::map<std::string, HostTensor> state_;
  std::map<ProgramKind, Graph> graphs_;
  Interpreter interpreter_;
};

}  // namespace longhaul
