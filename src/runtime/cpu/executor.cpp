#include "runtime/cpu/executor.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <thread>

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

using Clock = std::chrono::steady_clock;

double seconds_of(Clock::time_point time) {
  return std::chrono::duration<double>(time.time_since_epoch()).count();
}
double seconds_now() {
  return seconds_of(Clock::now());
}

}  // namespace

CpuExecutor::CpuExecutor(Communicator& world, std::span<const Program* const> programs, const NamedBuffers& named,
                         CpuContext& context, CpuKernelCache& kernels, const Target::Pace& pace)
    : world_(world),
      wire_(link_delay() ? std::make_shared<DelayedWire>(*link_delay()) : nullptr),
      named_(named),
      arena_(bytes_for(programs, named)),
      host_arena_(host_bytes_for(programs)),
      context_(context),
      kernels_(kernels),
      pace_(pace) {
  programs_.reserve(programs.size());
  for (const Program* program : programs) prepare(*program);
}

CpuExecutor::~CpuExecutor() {
  settle();
}

// A step that failed may have left copies and collectives under way.
void CpuExecutor::settle() {
  if (context_.has_copies()) context_.copies().settle();
  for (auto& [queue, link] : links_) link.thread.settle();
}

Communicator& CpuExecutor::group(const Graph& graph, const AxisList& axes, const std::string& link) {
  auto& entry = groups_[{link, axes}];
  if (!entry) {
    entry = world_.group(graph.mesh.group(axes, world_.rank()));
    if (wire_) entry = delayed(std::move(entry), wire_);
    if (!link.empty()) entry->wait_patiently();
  }
  return *entry;
}

CpuExecutor::Link& CpuExecutor::link(const std::string& queue) {
  const std::string name = world_.concurrent() ? queue : "all";
  return links_.try_emplace(name, name, world_.rank(), world_.size()).first->second;
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
  const auto collectives = std::count_if(graph.ops.begin(), graph.ops.end(), [](const Op& op) {
    return op.definition->half == Half::start && op.definition->communication;
  });
  if (starts > collectives) context_.copies().reserve(static_cast<std::size_t>(starts - collectives));
  std::map<ValueId, std::size_t> started;  // by first staging value
  for (std::size_t i = 0; i < graph.ops.size(); ++i) {
    const Op& op = graph.ops[i];
    Instruction instruction;
    instruction.op = &op;
    instruction.place = {graph.name, op.definition->name, static_cast<std::int64_t>(i), {world_.rank()}};
    std::size_t scratch = 0;
    if (op.definition->half == Half::wait && op.definition->communication) {
      instruction.started_by = started.at(op.operands[0]);
      const Instruction& start = prepared.instructions[instruction.started_by];
      instruction.link = start.link;
      instruction.place.ranks = start.place.ranks;
    } else if (op.definition->communication) {
      const bool starts_here = op.definition->half == Half::start;
      instruction.communication = std::make_unique<CommunicationStep>(graph, op, world_.rank());
      if (!instruction.communication->is_local()) {
        instruction.group =
            &group(graph, instruction.communication->axes, starts_here ? op.definition->queue : std::string());
        instruction.place.ranks = graph.mesh.group(instruction.communication->axes, world_.rank());
      }
      scratch = static_cast<std::size_t>(instruction.communication->scratch_bytes());
      if (starts_here) {
        LONGHAUL_CHECK(instruction.group, "a collective of one rank in two halves");
        instruction.link = &link(op.definition->queue);
        started[op.results[0]] = i;
      }
    } else {
      instruction.kernel = kernels_.get(graph, op);
      scratch = instruction.kernel->scratch_bytes;
      if (pace_) instruction.pace = pace_(graph, op);
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
  if (collectives > 0)
    for (auto& [queue, one] : links_) one.thread.reserve(static_cast<std::size_t>(collectives));
  programs_.push_back(std::move(prepared));
}

void CpuExecutor::exchange(void* of) {
  const Instruction& start = *static_cast<const Instruction*>(of);
  Link& link = *start.link;
  const double begin = link.tracing ? seconds_now() : 0;
  exchange_communication(*start.communication, start.group, start.operands, start.results, start.scratch,
                         link.profiling ? &link.times : nullptr);
  if (link.tracing)
    link.events.push_back(
        {start.place.program, pair_name(*start.op), link.name, start.place.instruction, begin, seconds_now()});
}

void CpuExecutor::run_half(Prepared& program, Instruction& instruction) {
  if (instruction.communication) {
    pack_communication(*instruction.communication, instruction.operands, instruction.scratch, context_.pool());
    instruction.ticket = instruction.link->thread.start({exchange, &instruction});
    return;
  }
  const Instruction& start = program.instructions[instruction.started_by];
  instruction.link->thread.wait(start.ticket);
  if (start.communication->unpacks)
    return unpack_communication(*start.communication, instruction.results, start.scratch, context_.pool());
  const CommunicationStep::Part& part = start.communication->parts[0];
  if (instruction.results[0] != start.results[0])
    std::memcpy(instruction.results[0], start.results[0],
                static_cast<std::size_t>(part.unpack.outer * part.unpack.size * part.unpack.inner));
}

// Where only one thread at a time may communicate: when what was started is done, which had to come first anyway.
void CpuExecutor::run_alone(Instruction& one) {
  for (auto& [queue, link] : links_) link.thread.wait_for_all();
  run_communication(*one.communication, one.group, one.operands, one.results, one.scratch, context_.pool(),
                    profiling_ ? &profile_.communication : nullptr);
}

void CpuExecutor::run(std::size_t i) {
  Prepared& program = programs_[i];
  settle();
  for (auto& [queue, link] : links_) {
    link.profiling = profiling_;
    link.tracing = tracing_;
  }
  for (Instruction& instruction : program.instructions) {
    activity_.enter(&instruction.place);
    const bool timed = profiling_ || tracing_ || instruction.pace > 0;
    const auto begin = timed ? Clock::now() : Clock::time_point();
    if (instruction.link)
      run_half(program, instruction);
    else if (instruction.communication && instruction.group && !world_.concurrent())
      run_alone(instruction);
    else if (instruction.communication)
      run_communication(*instruction.communication, instruction.group, instruction.operands, instruction.results,
                        instruction.scratch, context_.pool(), profiling_ ? &profile_.communication : nullptr);
    else
      instruction.kernel->run({instruction.operands.data(), instruction.results.data(), instruction.scratch, context_});
    if (instruction.pace > 0) std::this_thread::sleep_until(begin + std::chrono::duration<double>(instruction.pace));
    if (tracing_)
      events_.push_back({instruction.place.program, instruction.op->definition->name, "", instruction.place.instruction,
                         seconds_of(begin), seconds_now()});
    if (profiling_) {
      Profile::Row& row = profile_.ops[instruction.op->definition->name];
      row.seconds += std::chrono::duration<double>(Clock::now() - begin).count();
      row.calls += 1;
      row.flops += instruction.flops;
    }
  }
  activity_.enter(nullptr);
  for (auto& [queue, link] : links_) {  // each start has its wait: the threads are idle
    profile_.communication.waiting += link.times.waiting;
    profile_.communication.moving += link.times.moving;
    link.times = {};
  }
  for (const auto& copy : program.copies)
    std::memmove(arena_.data() + copy.to, arena_.data() + copy.from, static_cast<std::size_t>(copy.bytes));
}

std::vector<TraceEvent> CpuExecutor::trace() const {
  std::vector<TraceEvent> all = events_;
  for (const auto& [queue, link] : links_) all.insert(all.end(), link.events.begin(), link.events.end());
  return all;
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
