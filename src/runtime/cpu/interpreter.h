// Runs a graph op by op with a buffer of its own for every value: the oracle (any graph, one device, collectives as
// identity), and the means to find the first op that differs (every rank's values kept, to be gathered and compared).
// Slow and simple on purpose.
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "ir/graph.h"
#include "runtime/cpu/kernel.h"

namespace longhaul {

/// A host tensor that owns its memory.
struct HostTensor {
  TensorType type;
  std::vector<char> bytes;
  HostTensor() = default;
  explicit HostTensor(TensorType tensor_type)
      : type(std::move(tensor_type)), bytes(static_cast<std::size_t>(type.bytes())) {}
  char* data() { return bytes.data(); }
  const char* data() const { return bytes.data(); }
  /// Element i as a double.
  double at(std::int64_t i) const;
  void set(std::int64_t i, double value);
};

struct InterpreterOptions {
  bool reference_only = true;
  int threads = 1;
  /// Called after each op with its results; the tensors may be changed.
  std::function<void(const Graph&, std::size_t op, std::vector<HostTensor*>& results)> observer;
};

/// Values are dropped after their last use.
class Interpreter {
 public:
  explicit Interpreter(const InterpreterOptions& options);

  /// One device: values whole, every change of layout the identity. Inputs by name (missing ones are refused); returns
  /// outputs by name.
  std::map<std::string, HostTensor> run(const Graph& graph, const std::map<std::string, HostTensor>& inputs);
  /// One rank of many: local shapes, collectives on the world's groups. The graph is lowered.
  std::map<std::string, HostTensor> run_rank(const Graph& graph, const std::map<std::string, HostTensor>& local_inputs,
                                             Communicator& world);

 private:
  std::map<std::string, HostTensor> execute(const Graph& graph, const std::map<std::string, HostTensor>& inputs,
                                            Communicator* world);
  Communicator& group(const Graph& graph, const AxisList& axes, Communicator& world);

  InterpreterOptions options_;
  CpuContext context_;
  CpuKernelCache kernels_;
  std::map<AxisList, std::unique_ptr<Communicator>> groups_;
};

}  // namespace longhaul
