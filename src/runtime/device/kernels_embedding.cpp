// embedding and its gradient; rope_table and rope.
#include <cstring>
#include <memory>
#include <vector>

#include "runtime/device/bind.h"

namespace longhaul {
namespace {

bool make_embedding(const DeviceProblem& problem, DeviceKernel& kernel, std::string& refusal) {
  const auto& table = problem.operands[1];
  if (!bind::narrow(refusal, {&table}) || !bind::fits(refusal, {table.shape[0], table.shape[1]})) return false;
  using Call = cuda::Embedding;
  Call call{};
  call.tokens = problem.operands[0].count();
  call.columns = static_cast<std::int32_t>(table.shape[1]), call.vocabulary = static_cast<std::int32_t>(table.shape[0]);
  call.type = bind::type_of(table.dtype);
  return bind::run(kernel, call, bind::operands(&Call::token, &Call::table), bind::results(&Call::out),
                   &cuda::Api::embedding);
}

bool make_embedding_gradient(const DeviceProblem& problem, DeviceKernel& kernel, std::string& refusal) {
  const auto& table = problem.results[0];
  if (!bind::narrow(refusal, {&problem.operands[1]}) || !bind::single(table, "gradients of the table", refusal) ||
      !bind::fits(refusal, {table.shape[0], table.shape[1], 2 * problem.operands[0].count()}))
    return false;
  using Call = cuda::EmbeddingGradient;
  Call call{};
  call.tokens = problem.operands[0].count();
  call.columns = static_cast<std::int32_t>(table.shape[1]), call.vocabulary = static_cast<std::int32_t>(table.shape[0]);
  call.type = bind::type_of(problem.operands[1].dtype);
  kernel.scratch_bytes = problem.context.api().embedding_workspace(call.tokens, call.vocabulary);
  bind::run(kernel, call, bind::operands(&Call::token, &Call::dout), bind::results(&Call::dtable),
            &cuda::Api::embedding_gradient);
  if (problem.operands.size() == 3) {
    bind::copy_first(kernel, {{2, 0, table.bytes()}});
    return true;
  }
  kernel.run = [run = std::move(kernel.run), bytes = static_cast<std::size_t>(table.bytes())](const DeviceCall& one) {
    one.context.succeed(one.context.api().fill(one.results[0], 0, bytes, one.context.stream()));
    run(one);
  };
  return true;
}

bool make_rope_table(const DeviceProblem& problem, DeviceKernel& kernel, std::string& refusal) {
  if (!bind::single(problem.results[0], "the table", refusal)) return false;
  const std::vector<double> frequencies = problem.op.attributes.numbers("inverse_frequencies");
  cuda::RopeTable table{};
  table.tokens = problem.operands[0].count();
  table.rotated = static_cast<std::int32_t>(problem.results[0].shape.back());
  table.scale = problem.op.attributes.number("scale", 1);
  table.growth = problem.op.attributes.number("growth", 0);
  table.growth_length = problem.op.attributes.integer("growth_length", 1);
  LONGHAUL_CHECK(static_cast<std::int32_t>(frequencies.size()) * 2 == table.rotated, "rope_table: {} frequencies",
                 frequencies.size());
  kernel.scratch_bytes = frequencies.size() * sizeof(double);
  // Pinned from the first run on, when there is a device: what is copied from other memory no graph can hold.
  kernel.run = [table, frequencies,
                pinned = std::make_shared<std::unique_ptr<DeviceMemory>>()](const DeviceCall& call) {
    const std::size_t bytes = frequencies.size() * sizeof(double);
    if (!*pinned) {
      *pinned = std::make_unique<DeviceMemory>(call.context.device(), DeviceMemory::Place::host, bytes);
      std::memcpy((*pinned)->data(), frequencies.data(), bytes);
    }
    bind::copy(call.context, call.scratch, (*pinned)->data(), static_cast<std::int64_t>(bytes));
    cuda::RopeTable one = table;
    one.position = static_cast<const std::int32_t*>(call.operands[0]);
    one.inverse_frequencies = static_cast<const double*>(call.scratch);
    one.table = static_cast<float*>(call.results[0]);
    call.context.succeed(call.context.api().rope_table(&one, call.context.stream()));
  };
  return true;
}

bool make_rope(const DeviceProblem& problem, DeviceKernel& kernel, std::string& refusal) {
  const auto& x = problem.operands[0];
  if (!bind::narrow(refusal, {&x}) || !bind::single(problem.operands[1], "a table", refusal) ||
      !bind::fits(refusal, {x.shape[0], x.shape[1], x.shape[2]}))
    return false;
  using Call = cuda::Rope;
  Call call{};
  call.batch = static_cast<std::int32_t>(x.shape[0]), call.rows = static_cast<std::int32_t>(x.shape[1]);
  call.heads = static_cast<std::int32_t>(x.shape[2]), call.head_dim = static_cast<std::int32_t>(x.shape[3]);
  call.rotated = static_cast<std::int32_t>(problem.operands[1].shape.back());
  call.inverse = problem.op.attributes.integer("inverse") != 0;
  call.ranks = 1;
  call.type = bind::type_of(x.dtype);
  return bind::run(kernel, call, bind::operands(&Call::x, &Call::table), bind::results(&Call::y), &cuda::Api::rope);
}

const DeviceKernels embedding("embedding", bind::generic(make_embedding));
const DeviceKernels embedding_gradient("embedding_gradient", {{"sorted", make_embedding_gradient}});
const DeviceKernels embedding_gradient_add("embedding_gradient_add", {{"sorted", make_embedding_gradient}});
const DeviceKernels rope_table("rope_table", bind::generic(make_rope_table));
const DeviceKernels rope("rope", bind::generic(make_rope));

}  // namespace
}  // namespace longhaul
