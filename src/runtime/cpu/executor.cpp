#include "runtime/cpu/executor.h"

#include <chrono>
#include <cstring>

#include "base/error.h"
#include "ir/op_definition.h"
#include "runtime/cpu/communication_run.h"

namespace longhaul {

std::int64_t arena_bytes(const std::vector<const Program*>& programs, const NamedBuffers& named) {
  std::int64_t transient = 0;
  for (const Program* program : programs) transient = std::max(transient, program->plan.transient_bytes);
  return named.bytes + transient;
}

CpuExecutor::CpuExecutor(Communicator& world, const std::vector<const Program*>& programs, const NamedBuffers& named,
                         const ExecutorOptions& options)
    : world_(world),
      named_(named),
      arena_(static_cast<std::size_t>(longhaul::arena_bytes(programs, named))),
      context_(options.threads),
      kernels_(context_, options.reference_only) {
  context_.set_libraries(options.libraries);
  programs_.reserve(programs.size());
  for (const Program* program : programs) prepare(*program, world.rank());
}

Communicator& CpuExecutor::group(const Graph& graph, const AxisList& axes) {
  auto& entry = groups_[axes];
  if (!entry) entry = world_.group(graph.mesh.group(axes, world_.rank()));
  return *entry;
}

void CpuExecutor::prepare(const Program& program, int rank) {
  const Graph& graph = program.graph;
  LONGHAUL_CHECK(graph.mesh.world() == world_.size(), "a program for {} ranks on {}", graph.mesh.world(),
                 world_.size());
  Prepared prepared;
  prepared.copies = program.plan.final_copies;
  prepared.instructions.reserve(graph.ops.size());
  const auto place = [&](ValueId id) -> char* {
    const std::int64_t offset = program.plan.value_offset[static_cast<std::size_t>(id)];
    LONGHAUL_CHECK(offset >= 0, "value %{} has no place", id);
    return arena_.data() + offset;
  };
  for (std::size_t i = 0; i < graph.ops.size(); ++i) {
    const Op& op = graph.ops[i];
    Instruction instruction;
    instruction.op = &op;
    std::size_t scratch = 0;
    if (op.definition->communication) {
      instruction.communication = std::make_unique<CommunicationStep>(graph, op, rank);
      if (!instruction.communication->is_local()) instruction.group = &group(graph, instruction.communication->axes);
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
    for (ValueId operand : op.operands) instruction.operands.push_back(place(operand));
    for (ValueId result : op.results) instruction.results.push_back(place(result));
    prepared.instructions.push_back(std::move(instruction));
  }
  programs_.push_back(std::move(prepared));
}

void CpuExecutor::run(std::size_t i) {
  Prepared& program = programs_[i];
  using Clock = std::chrono::steady_clock;
  for (Instruction& instruction : program.instructions) {
    const auto begin = profiling_ ? Clock::now() : Clock::time_point();
    if (instruction.communication)
      run_communication(*instruction.communication, instruction.group, instruction.operands, instruction.results,
                        instruction.scratch, context_.pool(), profiling_ ? &times_ : nullptr);
    else
      instruction.kernel->run({instruction.operands.data(), instruction.results.data(), instruction.scratch, context_});
    if (profiling_) {
      ProfileRow& row = profile_[instruction.op->definition->name];
      row.seconds += std::chrono::duration<double>(Clock::now() - begin).count();
      row.calls += 1;
      row.flops += instruction.flops;
    }
  }
  for (const auto& copy : program.copies)
    std::memmove(arena_.data() + copy.to, arena_.data() + copy.from, static_cast<std::size_t>(copy.bytes));
}

void* CpuExecutor::buffer(std::string_view name) {
  const auto slot = named_.slots.find(name);
  LONGHAUL_CHECK(slot != named_.slots.end(), "no buffer is called {}", name);
  return arena_.data() + slot->second.offset;
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
