#include "runtime/device/shadow.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "ir/op_definition.h"
#include "runtime/cpu/interpreter.h"

namespace longhaul {
namespace {

HostTensor read(const DeviceCall& call, const TensorType& type, const void* from) {
  HostTensor tensor(type);
  if (type.bytes() > 0)
    call.context.succeed(call.context.api().copy(tensor.data(), from, tensor.bytes.size(), call.context.stream()));
  call.context.device().synchronize();
  return tensor;
}

double norm(const HostTensor& tensor) {
  double sum = 0;
  for (std::int64_t i = 0; i < tensor.type.count(); ++i)
    if (std::isfinite(tensor.at(i))) sum += tensor.at(i) * tensor.at(i);
  return std::sqrt(sum);
}

// What a kernel's results may be off by, of their norm: what it reads, writes or rounds on the way in the coarsest of
// its dtypes.
double limit_of(const LocalOp& op) {
  const auto coarse = [](const TensorType& type) { return type.dtype == DType::bfloat16; };
  return std::any_of(op.operands.begin(), op.operands.end(), coarse) ||
                 std::any_of(op.results.begin(), op.results.end(), coarse)
             ? 2e-2
             : 1e-4;
}

// Why they differ, or "". `least` is a norm below which nothing is compared: a sum that cancels leaves only roundings.
std::string difference(const HostTensor& device, const HostTensor& host, double limit, double least) {
  double error = 0;
  for (std::int64_t i = 0; i < host.type.count(); ++i) {
    const double a = device.at(i), b = host.at(i);
    if (a == b || (std::isnan(a) && std::isnan(b))) continue;
    if (!std::isfinite(a) || !std::isfinite(b))
      return fmt::format("element {} is {} on the device and {} on the host", i, a, b);
    error += (a - b) * (a - b);
  }
  const double whole = norm(host);
  if (std::sqrt(error) <= std::max(limit * whole, least)) return "";
  return fmt::format("it differs by {:.3g} of its root mean square, {} is allowed", std::sqrt(error) / whole, limit);
}

}  // namespace

void Shadow::run(const Graph& graph, const Op& op, const DeviceKernel& kernel, const DeviceCall& call) {
  const LocalOp local(graph, op, false);
  std::vector<HostTensor> operands, results;
  std::vector<const void*> from;
  std::vector<void*> to;
  for (std::size_t i = 0; i < local.operands.size(); ++i)
    operands.push_back(read(call, local.operands[i], call.operands[i]));
  for (const TensorType& type : local.results) results.emplace_back(type);
  for (const HostTensor& operand : operands) from.push_back(operand.data());
  for (HostTensor& result : results) to.push_back(result.data());
  kernel.run(call);
  call.context.device().synchronize();
  const auto reference = kernels_.get(graph, op);
  std::vector<char> scratch(reference->scratch_bytes + 64);
  const auto address = (reinterpret_cast<std::uintptr_t>(scratch.data()) + 63) / 64 * 64;
  reference->run({from.data(), to.data(), reinterpret_cast<void*>(address), cpu_});
  // Sums of one operand's elements, as of a bias whose gradient is zero by symmetry.
  const double limit = limit_of(local), least = op.definition->linear ? limit * 1e-2 * norm(operands[0]) : 0;
  for (std::size_t i = 0; i < results.size(); ++i) {
    const std::string wrong = difference(read(call, local.results[i], call.results[i]), results[i], limit, least);
    if (!wrong.empty())
      throw Error(
          fmt::format("kernel {} and the CPU's reference kernel disagree about result {}: {}", kernel.name, i, wrong));
  }
  ++checked_;
}

}  // namespace longhaul
