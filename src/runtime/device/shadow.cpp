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
  call.context.device().synchronize();  // before the copy, which waits in the driver, where no lost rank is seen
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
  const Checked one{&graph, &op, call, false};
  run({&one, 1}, kernel.name, [&] { kernel.run(call); });
}

void Shadow::run(std::span<const Checked> ops, const std::string& kernel, const std::function<void()>& launch) {
  std::vector<std::vector<HostTensor>> read_of(ops.size());
  const auto read_operands = [&](bool after) {
    for (std::size_t k = 0; k < ops.size(); ++k) {
      const LocalOp local(*ops[k].graph, *ops[k].op, false);
      for (std::size_t i = 0; ops[k].after == after && i < local.operands.size(); ++i)
        read_of[k].push_back(read(ops[k].call, local.operands[i], ops[k].call.operands[i]));
    }
  };
  read_operands(false);
  launch();
  ops[0].call.context.device().synchronize();
  read_operands(true);
  for (std::size_t k = 0; k < ops.size(); ++k) {
    const LocalOp local(*ops[k].graph, *ops[k].op, false);
    const std::vector<HostTensor>& operands = read_of[k];
    std::vector<HostTensor> results;
    std::vector<const void*> from;
    std::vector<void*> to;
    for (const TensorType& type : local.results) results.emplace_back(type);
    for (const HostTensor& operand : operands) from.push_back(operand.data());
    for (HostTensor& result : results) to.push_back(result.data());
    const auto reference = kernels_.get(*ops[k].graph, *ops[k].op);
    std::vector<char> scratch(reference->scratch_bytes + 64);
    const auto address = (reinterpret_cast<std::uintptr_t>(scratch.data()) + 63) / 64 * 64;
    reference->run({from.data(), to.data(), reinterpret_cast<void*>(address), cpu_});
    // Sums of one operand's elements, as of a bias whose gradient is zero by symmetry.
    const double limit = limit_of(local), least = ops[k].op->definition->linear ? limit * 1e-2 * norm(operands[0]) : 0;
    for (std::size_t i = 0; i < results.size(); ++i) {
      const std::string wrong =
          difference(read(ops[k].call, local.results[i], ops[k].call.results[i]), results[i], limit, least);
      if (!wrong.empty())
        throw Error(fmt::format("kernel {} and the CPU's reference kernel disagree about result {} of {}: {}", kernel,
                                i, local.text(), wrong));
    }
    ++checked_;
  }
}

}  // namespace longhaul
