#include "runtime/cpu/executor.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "base/error.h"
#include "ir/op_definition.h"
#include "runtime/cpu/communication_run.h"
#include "runtime/cpu/copy_thread.h"

namespace longhaul {

namespace {

// Named buffers, and the largest program's transients.
std::size_t bytes_for(std::span<const Program* const> programs, const NamedBuffers& named) {
  std::int64_t transient = 0;
  for (const Program* program : programs) transient = std::max(transient, program->plan.transient_bytes);
  return static_cast<std::size_t>(named.bytes + transient);
}

std::size_t host_bytes_for(std::span<const Program* const> programs) {
  std::int64_t most = 0;
  for (const Program* program : programs) most = std::max(most, program->plan.host.transient_bytes);
  return static_cast<std::size_t>(most);
}

}  // namespace

CpuExecutor::CpuExecutor(Communicator& world, std::span<const Program* const> programs, const NamedBuffers& named,
                         CpuContext& context, CpuKernelCache& kernels)
    : world_(world),
      named_(named),
      arena_(bytes_for(programs, named)),
      host_arena_(host_bytes_for(programs)),
      context_(context),
      kernels_(kernels) {
  programs_.reserve(programs.size());
  for (const Program* program : programs) prepare(*program);
}

CpuExecutor::~CpuExecutor() {
  if (context_.has_copies()) context_.copies().settle();  // a step that failed may have left some
}

Communicator& CpuExecutor::group(const Graph& graph, const AxisList& axes) {
  auto& entry = groups_[axes];
  if (!entry) entry = world_.group(graph.mesh.group(axes, world_.rank()));
  return *entry;
}

void CpuExecutor::prepare(const Program& program) {
  const Graph& graph = program.graph;
  LONGHAUL_CHECK(graph.mesh.world() == world_.size(), "a program for {} ranks on {}", graph.mesh.world(),
                 world_.size());
  Prepared prepared;
  prepared.copies = program.plan.final_copies;
  prepared.instructions.reserve(graph.ops.size());
  const auto stored = [&](ValueId id) -> char* {
    const std::int64_t offset = program.plan.value_offset[static_cast<std::size_t>(id)];
    LONGHAUL_CHECK(offset >= 0, "value %{} has no place", id);
    return (graph[id].space == Space::host ? host_arena_ : arena_).data() + offset;
  };
  const auto starts = std::count_if(graph.ops.begin(), graph.ops.end(),
                                    [](const Op& op) { return op.definition->half == Half::start; });
  if (starts > 0) context_.copies().reserve(static_cast<std::size_t>(starts));
  for (std::size_t i = 0; i < graph.ops.size(); ++i) {
    const Op& op = graph.ops[i];
    Instruction instruction;
    instruction.op = &op;
    instruction.place = {graph.name, op.definition->name, static_cast<std::int64_t>(i), {world_.rank()}};
    std::size_t scratch = 0;
    if (op.definition->communication) {
      instruction.communication = std::make_unique<CommunicationStep>(graph, op, world_.rank());
      if (!instruction.communication->is_local()) {
        instruction.group = &group(graph, instruction.communication->axes);
        instruction.place.ranks = graph.mesh.group(instruction.communication->axes, world_.rank());
      }
      scratch = static_cast<std::size_t>(instruction.communication->scratch_bytes());
    } else {
      instruction.kernel = kernels_.get(graph, op);
      scratch = instruction.kernel->scratch_bytes;
      if (op.definition->flops) instruction.flops = op.definition->flops(graph, op, graph.mesh);
    }
    LONGHAUL_CHECK(static_cast<std::int64_t>(scratch) <= program.plan.scratch_bytes[i],
                   "{} needs {} bytes of scratch, planned {}", op.definition->name, scratch,
                   program.plan.scratch_bytes[i]);
    if (scratch) instruction.scratch = arena_.data() + program.plan.scratch_offset[i];
    for (ValueId operand : op.operands) instruction.operands.push_back(stored(operand));
    for (ValueId result : op.results) instruction.results.push_back(stored(result));
    prepared.instructions.push_back(std::move(instruction));
  }
  programs_.push_back(std::move(prepared));
}

void CpuExecutor::run(std::size_t i) {
  Prepared& program = programs_[i];
  using Clock = std::chrono::steady_clock;
  if (context_.has_copies()) context_.copies().settle();
  for (Instruction& instruction : program.instructions) {
    activity_.enter(&instruction.place);
    const auto begin = profiling_ ? Clock::now() : Clock::time_point();
    if (instruction.communication)
      run_communication(*instruction.communication, instruction.group, instruction.operands, instruction.results,
                        instruction.scratch, context_.pool(), profiling_ ? &profile_.communication : nullptr);
    else
      instruction.kernel->run({instruction.operands.data(), instruction.results.data(), instruction.scratch, context_});
    if (profiling_) {
      Profile::Row& row = profile_.ops[instruction.op->definition->name];
      row.seconds += std::chrono::duration<double>(Clock::now() - begin).count();
      row.calls += 1;
      row.flops += instruction.flops;
    }
  }
  activity_.enter(nullptr);
  for (const auto& copy : program.copies)
    std::memmove(arena_.data() + copy.to, arena_.data() + copy.from, static_cast<std::size_t>(copy.bytes));
}

std::int64_t CpuExecutor::place(std::string_view buffer, std::int64_t byte, std::size_t count) const {
  const auto slot = named_.slots.find(buffer);
  LONGHAUL_CHECK(slot != named_.slots.end(), "no buffer is called {}", buffer);
  LONGHAUL_CHECK(byte >= 0 && byte + static_cast<std::int64_t>(count) <= slot->second.bytes,
                 "bytes [{}, {}) of {}, which has {}", byte, byte + static_cast<std::int64_t>(count), buffer,
                 slot->second.bytes);
  return slot->second.offset + byte;
}

void CpuExecutor::read(std::string_view buffer, std::int64_t byte, std::span<std::byte> to) const {
  const char* const from = arena_.data() + place(buffer, byte, to.size());
  if (!to.empty()) std::memcpy(to.data(), from, to.size());
}

void CpuExecutor::write(std::string_view buffer, std::int64_t byte, std::span<const std::byte> from) {
  char* const to = arena_.data() + place(buffer, byte, from.size());
  if (!from.empty()) std::memcpy(to, from.data(), from.size());
}

void CpuExecutor::zero(std::string_view buffer) {
  const auto whole = host_view(buffer);
  if (!whole.empty()) std::memset(whole.data(), 0, whole.size());
}

std::span<std::byte> CpuExecutor::host_view(std::string_view buffer) {
  char* const begin = arena_.data() + place(buffer, 0, 0);
  return {reinterpret_cast<std::byte*>(begin), static_cast<std::size_t>(named_.slots.find(buffer)->second.bytes)};
}

Traffic CpuExecutor::traffic() const {
  Traffic total;
  for (const auto& [axes, communicator] : groups_)
    for (std::size_t k = 0; k < total.rows.size(); ++k) {
      total.rows[k].calls += communicator->traffic().rows[k].calls;
      total.rows[k].bytes_sent += communicator->traffic().rows[k].bytes_sent;
    }
  return total;
}

void CpuExecutor::reset_traffic() {
  for (auto& [axes, communicator] : groups_) communicator->reset_traffic();
}

}  // namespace longhaul
