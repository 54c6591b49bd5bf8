#include "runtime/cpu/interpreter.h"

#include <cstring>

#include "base/error.h"
#include "ir/op_definition.h"
#include "kernels/cpu/thread_pool.h"
#include "runtime/cpu/communication_run.h"

namespace longhaul {

double HostTensor::at(std::int64_t i) const {
  const auto k = static_cast<std::size_t>(i);
  if (type.dtype == DType::int32) return reinterpret_cast<const std::int32_t*>(bytes.data())[k];
  if (type.dtype == DType::uint8) return static_cast<unsigned char>(bytes[k]);
  return dispatch_floating(type.dtype, [&](auto zero) {
    using T = decltype(zero);
    return static_cast<double>(static_cast<accumulate_t<T>>(reinterpret_cast<const T*>(bytes.data())[k]));
  });
}

void HostTensor::set(std::int64_t i, double value) {
  const auto k = static_cast<std::size_t>(i);
  if (type.dtype == DType::int32) {
    reinterpret_cast<std::int32_t*>(bytes.data())[k] = static_cast<std::int32_t>(value);
    return;
  }
  if (type.dtype == DType::uint8) {
    bytes[k] = static_cast<char>(static_cast<unsigned char>(value));
    return;
  }
  dispatch_floating(type.dtype, [&](auto zero) {
    using T = decltype(zero);
    reinterpret_cast<T*>(bytes.data())[k] = static_cast<T>(static_cast<accumulate_t<T>>(value));
  });
}

Interpreter::Interpreter(const InterpreterOptions& options)
    : options_(options), context_(options.threads), kernels_(context_, options.reference_only) {}

std::map<std::string, HostTensor> Interpreter::run(const Graph& graph,
                                                   const std::map<std::string, HostTensor>& inputs) {
  return execute(graph, inputs, nullptr);
}

std::map<std::string, HostTensor> Interpreter::run_rank(const Graph& graph,
                                                        const std::map<std::string, HostTensor>& local_inputs,
                                                        Communicator& world) {
  return execute(graph, local_inputs, &world);
}

Communicator& Interpreter::group(const Graph& graph, const AxisList& axes, Communicator& world) {
  auto& entry = groups_[axes];
  if (!entry) entry = world.group(graph.mesh.group(axes, world.rank()));
  return *entry;
}

std::map<std::string, HostTensor> Interpreter::execute(const Graph& graph,
                                                       const std::map<std::string, HostTensor>& inputs,
                                                       Communicator* world) {
  std::vector<HostTensor> values(graph.values.size());
  const auto at = [&](ValueId id) -> HostTensor& { return values[static_cast<std::size_t>(id)]; };
  const auto type = [&](ValueId id) {
    const Value& value = graph[id];
    return TensorType{world ? local_shape(value.shape, value.layout, graph.mesh) : value.shape, value.dtype};
  };
  for (const auto& input : graph.inputs) {
    const auto given = inputs.find(input.name);
    LONGHAUL_CHECK(given != inputs.end(), "graph {} needs input {}", graph.name, input.name);
    const TensorType wanted = type(input.value);
    LONGHAUL_CHECK(given->second.type.count() == wanted.count() && given->second.type.dtype == wanted.dtype,
                   "input {} of graph {} has {} elements of {}, wanted {} of {}", input.name, graph.name,
                   given->second.type.count(), name_of(given->second.type.dtype), wanted.count(),
                   name_of(wanted.dtype));
    at(input.value) = given->second;
    at(input.value).type = wanted;
  }
  std::vector<std::int32_t> last_use(graph.values.size(), -1);
  for (std::size_t i = 0; i < graph.ops.size(); ++i)
    for (ValueId operand : graph.ops[i].operands)
      last_use[static_cast<std::size_t>(operand)] = static_cast<std::int32_t>(i);
  for (const auto& output : graph.outputs)
    last_use[static_cast<std::size_t>(output.value)] = static_cast<std::int32_t>(graph.ops.size());

  std::vector<char> scratch;
  for (std::size_t i = 0; i < graph.ops.size(); ++i) {
    const Op& op = graph.ops[i];
    std::vector<const void*> operands;
    std::vector<void*> results;
    std::vector<HostTensor*> tensors;
    for (ValueId operand : op.operands) {
      LONGHAUL_CHECK(!at(operand).bytes.empty() || type(operand).bytes() == 0, "op #{} {} reads %{} before it is made",
                     i, op.definition->name, operand);
      operands.push_back(at(operand).data());
    }
    for (ValueId result : op.results) {
      at(result) = HostTensor(type(result));
      // Poison: a kernel that leaves an element unwritten shows.
      std::memset(at(result).data(), 0xff, at(result).bytes.size());
      results.push_back(at(result).data());
      tensors.push_back(&at(result));
    }
    const auto room = [&](std::size_t bytes) {
      if (scratch.size() < bytes + 64) scratch.resize(bytes + 64);
      auto address = reinterpret_cast<std::uintptr_t>(scratch.data());
      return reinterpret_cast<void*>((address + 63) / 64 * 64);
    };
    if (op.definition->half == Half::wait) {
      for (std::size_t k = 0; k < results.size(); ++k) at(op.results[k]).bytes = at(op.operands[k]).bytes;
    } else if (op.definition->communication) {
      if (world) {
        const CommunicationStep step(graph, op, world->rank());
        Communicator* members = step.is_local() ? nullptr : &group(graph, step.axes, *world);
        run_communication(step, members, operands, results, room(static_cast<std::size_t>(step.scratch_bytes())),
                          context_.pool());
      } else {
        for (std::size_t k = 0; k < results.size(); ++k) at(op.results[k]).bytes = at(op.operands[k]).bytes;
      }
    } else if (op.definition->half != Half::none) {
      at(op.results[0]).bytes = at(op.operands[0]).bytes;  // at once: what observes the staging value sees all of it
    } else {
      const auto kernel = kernels_.get(graph, op, world == nullptr);
      kernel->run({operands.data(), results.data(), room(kernel->scratch_bytes), context_});
    }
    if (options_.observer) options_.observer(graph, i, tensors);
    for (ValueId operand : op.operands)
      if (last_use[static_cast<std::size_t>(operand)] == static_cast<std::int32_t>(i))
        std::vector<char>().swap(at(operand).bytes);
  }
  std::map<std::string, HostTensor> outputs;
  for (const auto& output : graph.outputs) outputs[output.name] = at(output.value);
  return outputs;
}

}  // namespace longhaul
