#include "runtime/device/executor.h"

#include <xxhash.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <exception>
#include <numeric>
#include <typeinfo>

#include "base/error.h"
#include "base/log.h"
#include "comm/exchange.h"
#include "ir/op_definition.h"
#include "runtime/device/nccl_plane.h"

namespace longhaul {
namespace {

constexpr std::size_t upload_bytes = std::size_t{4} << 20, noted_scalars = 1024;

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

DeviceExecutor::DeviceExecutor(Communicator& world, std::span<const Program* const> programs, const NamedBuffers& named,
                               DeviceContext& context, DeviceKernelCache& kernels, Shadow* shadow, bool groups,
                               const DataPlaneChoice& collectives, double timeout, bool graphs)
    : world_(world),
      named_(named),
      context_(context),
      kernels_(kernels),
      shadow_(shadow),
      groups_instructions_(groups),
      graphs_(graphs),
      collectives_(collectives),
      exceptions_(std::uncaught_exceptions()) {
  if (world.size() > 1 && collectives.kind != DataPlaneKind::staged)
    watch_ = std::make_unique<CollectiveWatch>(context, world, activity_, timeout);
  LONGHAUL_CHECK(!graphs || !shadow, "graphs of ops that are checked one by one");
  // What waits in a graph for others ends when its communicators do, and those end when no graph has them.
  if (watch_ && graphs)
    watch_->before_end([this] {
      for (const Prepared& program : programs_) program.graph->drop();
    });
  const Device& device = context.device();
  device.enter();
  arena_ = std::make_unique<DeviceMemory>(device, DeviceMemory::Place::device, bytes_for(programs, named));
  host_arena_ = std::make_unique<DeviceMemory>(device, DeviceMemory::Place::host, host_bytes_for(programs));
  uploads_ = std::make_unique<DeviceMemory>(device, DeviceMemory::Place::host, upload_bytes);
  scalars_ = std::make_unique<DeviceMemory>(device, DeviceMemory::Place::host, noted_scalars * sizeof(double));
  if (arena_->bytes() > 0) context.succeed(context.api().fill(arena_->data(), 0, arena_->bytes(), context.stream()));
  if (watch_ && collectives_.kind == DataPlaneKind::push)
    peers_ = std::make_unique<PeerMemory>(context, world, *arena_);
  for (const Program* program : programs)
    for (const Op& op : program->graph.ops)
      beside_ |= watch_ && op.definition->communication && op.definition->half == Half::start;
  programs_.reserve(programs.size());
  for (const Program* program : programs) prepare(*program);
  if (watch_ && collectives_.kind == DataPlaneKind::nccl)
    log_info("NCCL's communicators ({}) take {:.1f} MiB of the device besides the plan", groups_.size(),
             static_cast<double>(nccl_bytes_) / (1 << 20));
  if (peers_) check_places();
  std::size_t staging = 0;
  for (const Prepared& program : programs_)
    for (const Instruction& one : program.instructions)
      if (one.step) staging = std::max(staging, plane_staging_bytes(*one.step, collectives_));
  staging_ = std::make_unique<DeviceMemory>(device, DeviceMemory::Place::host, staging);
  tables_.upload(context);
  synchronize();
  tables_.settle();
}

DeviceExecutor::~DeviceExecutor() {
  // Others will not come to what is queued when this rank fails.
  if (watch_ && std::uncaught_exceptions() > exceptions_) watch_->abort();
  // Work that is queued still reads and writes what is given back.
  if (context_.api().device_select(context_.device().number()) != 0) return;
  context_.api().stream_synchronize(context_.stream());
  for (const auto& [queue, side] : sides_) side.synchronize();
}

SideStream* DeviceExecutor::side_of(const Op& op) {
  if (op.definition->communication && !beside_) return nullptr;
  if (!op.definition->communication && op.definition->half != Half::start) return nullptr;
  return &sides_.try_emplace(op.definition->communication ? "collectives" : op.definition->queue, context_)
              .first->second;
}

DataPlane& DeviceExecutor::group(const std::vector<int>& ranks, const AxisList& axes) {
  Group& entry = groups_[axes];
  if (entry.plane) return *entry.plane;
  entry.communicator = world_.group(ranks);
  if (watch_ && collectives_.kind == DataPlaneKind::nccl) {
    auto plane = std::make_unique<NcclPlane>(context_, *entry.communicator, *watch_, collectives_,
                                             fmt::format("ranks {}", fmt::join(ranks, ", ")));
    nccl_bytes_ += plane->device_bytes();
    entry.plane = std::move(plane);
  } else if (peers_)
    entry.plane = std::make_unique<PushPlane>(context_, *entry.communicator, *watch_, *peers_,
                                              static_cast<int>(groups_.size()) - 1, ranks);
  else
    entry.plane = std::make_unique<StagedPlane>(context_, *entry.communicator);
  return *entry.plane;
}

void DeviceExecutor::check_places() const {
  std::vector<std::int64_t> places;
  const auto add = [&](const void* pointer) { places.push_back(static_cast<const char*>(pointer) - arena_->data()); };
  for (const Prepared& program : programs_)
    for (const Instruction& one : program.instructions) {
      if (!one.step || one.step->is_local()) continue;
      add(one.results[0]);
      if (one.scratch) add(one.scratch);
    }
  const std::vector<std::uint64_t> hashes =
      all_gather(world_, std::uint64_t{XXH64(places.data(), places.size() * sizeof places[0], 0)});
  for (const std::uint64_t hash : hashes)
    LONGHAUL_CHECK(hash == hashes[0], "ranks plan their messages at other places than rank 0");
}

void DeviceExecutor::prepare(const Program& program) {
  const Graph& graph = program.graph;
  LONGHAUL_CHECK(graph.mesh.world() == world_.size(), "a program for {} ranks on {}", graph.mesh.world(),
                 world_.size());
  Prepared prepared;
  prepared.copies = program.plan.final_copies;
  prepared.instructions.reserve(graph.ops.size());
  const auto stored = [&](ValueId id) -> char* {
    const std::int64_t offset = program.plan.value_offset[static_cast<std::size_t>(id)];
    LONGHAUL_CHECK(offset >= 0, "value %{} has no place", id);
    return (graph[id].space == Space::host ? host_arena_ : arena_)->data() + offset;
  };
  std::map<ValueId, std::size_t> started;  // by first staging value
  for (std::size_t i = 0; i < graph.ops.size(); ++i) {
    const Op& op = graph.ops[i];
    Instruction one;
    one.graph = &graph;
    one.op = &op;
    one.place = {graph.name, op.definition->name, static_cast<std::int64_t>(i), {world_.rank()}};
    for (ValueId operand : op.operands) one.operands.push_back(stored(operand));
    for (ValueId result : op.results) one.results.push_back(stored(result));
    std::int64_t scratch = 0;
    if (op.definition->communication && op.definition->half == Half::wait) {
      // Its start has carried it out, on the one stream; what lies elsewhere is brought to its place.
      for (std::size_t k = 0; k < one.results.size(); ++k)
        if (one.results[k] != one.operands[k])
          one.moves.push_back(
              {one.results[k], one.operands[k], static_cast<std::size_t>(local_bytes(graph, op.results[k]))});
    } else if (op.definition->communication) {
      one.step = std::make_unique<CommunicationStep>(graph, op, world_.rank());
      scratch = device_scratch_bytes(*one.step, collectives_);
    } else {
      one.kernel = kernels_.get(graph, op);
      scratch = static_cast<std::int64_t>(one.kernel->scratch_bytes);
      if (op.definition->flops) one.flops = op.definition->flops(graph, op, graph.mesh);
    }
    LONGHAUL_CHECK(scratch <= program.plan.scratch_bytes[i], "{} needs {} bytes of scratch, planned {}",
                   op.definition->name, scratch, program.plan.scratch_bytes[i]);
    if (scratch) {
      one.scratch = arena_->data() + program.plan.scratch_offset[i];
      one.scratch_bytes = static_cast<std::size_t>(program.plan.scratch_bytes[i]);
    }
    if (one.step) {
      DataPlane* plane = nullptr;
      std::string name;
      if (!one.step->is_local()) {
        one.place.ranks = graph.mesh.group(one.step->axes, world_.rank());
        plane = &group(one.place.ranks, one.step->axes);
        name =
            fmt::format("program {}, instruction {}, {} among ranks {} by {}", one.place.program, i,
                        LocalOp(graph, op, false).text(), fmt::join(one.place.ranks, ", "), name_of(collectives_.kind));
      }
      one.communication = std::make_unique<DeviceCommunication>(*one.step, plane, watch_.get(), std::move(name),
                                                                one.operands, one.results, one.scratch, tables_);
    }
    if (op.definition->half == Half::wait) {
      const Instruction& start = prepared.instructions[started.at(op.operands[0])];
      one.done = start.done;
      one.scratch = start.scratch;  // in use until then
      one.scratch_bytes = start.scratch_bytes;
    } else if (!one.step || !one.step->is_local()) {
      one.side = side_of(op);
      if (one.side) one.done = std::make_shared<StreamEvent>(context_);
      if (op.definition->half == Half::start) started[op.results[0]] = i;
    }
    prepared.instructions.push_back(std::move(one));
  }
  order(prepared);
  if (graphs_) {
    const auto collectives = static_cast<std::size_t>(std::ranges::count_if(
        prepared.instructions, [](const Instruction& one) { return one.step && !one.step->is_local(); }));
    for (const auto& [axes, group] : groups_) prepared.planes.push_back(group.plane.get());
    std::vector<int> ranks(collectives > 0 ? static_cast<std::size_t>(world_.size()) : 1, world_.rank());
    if (collectives > 0) std::iota(ranks.begin(), ranks.end(), 0);
    prepared.graph =
        std::make_unique<ProgramGraph>(context_, watch_.get(), graph.name, collectives, std::move(ranks), tables_);
  }
  programs_.push_back(std::move(prepared));
}

void DeviceExecutor::order(Prepared& program) {
  if (!groups_instructions_) {
    for (std::size_t i = 0; i < program.instructions.size(); ++i) program.order.push_back({{i}, nullptr});
    return;
  }
  std::vector<Instructed> all;
  for (std::size_t i = 0; i < program.instructions.size(); ++i) {
    const Instruction& one = program.instructions[i];
    all.push_back({one.graph, one.op, one.step.get(), one.operands, one.results, one.scratch, one.scratch_bytes});
  }
  program.order = group_instructions(all);
  for (InstructionGroup& group : program.order) {
    if (group.instructions.size() == 1) group.many = nullptr;
    if (group.many) group.many->prepare(context_, tables_);
  }
}

void DeviceExecutor::run(const Instruction& one) {
  if (one.side) {
    one.side->run(*one.done, [&] { carry_out(one); });
    if (one.op->definition->half == Half::none) one.done->wait();
    return;
  }
  if (one.done) one.done->wait();
  carry_out(one);
}

void DeviceExecutor::carry_out(const Instruction& one) {
  if (one.op->definition->communication && one.op->definition->half == Half::wait) {
    for (const auto& [to, from, bytes] : one.moves)
      context_.succeed(context_.api().copy(to, from, bytes, context_.stream()));
    return;
  }
  if (one.communication)
    return one.communication->run(context_, staging_->data(), one.place,
                                  profiling_ ? &profile_.communication : nullptr);
  const DeviceCall call{one.operands.data(), one.results.data(), one.scratch, context_};
  if (shadow_ && one.op->definition->half == Half::none)
    shadow_->run(*one.graph, *one.op, *one.kernel, call);
  else
    one.kernel->run(call);
}

void DeviceExecutor::run(const Prepared& program, const InstructionGroup& group) {
  const Instruction& first = program.instructions[group.instructions[0]];
  if (!group.many) return run(first);
  if (!shadow_ || first.step) return group.many->run(context_);
  std::vector<Shadow::Checked> ops;
  for (const std::size_t i : group.instructions) {
    const Instruction& one = program.instructions[i];
    ops.push_back(
        {one.graph, one.op, {one.operands.data(), one.results.data(), nullptr, context_}, one.op->is("cast")});
  }
  shadow_->run(ops, "of many tensors", [&] { group.many->run(context_); });
}

void DeviceExecutor::run(std::size_t i) {
  context_.device().enter();
  Prepared& program = programs_[i];
  if (!program.graph) return run(program);
  // Threads of one process that launch NCCL's kernels on several GPUs could each hold what the others' need.
  if (program.graph->has_collectives() && world_.one_process() && !context_.device().is_emulated()) world_.barrier();
  program.graph->run([&] { run(program); }, program.planes, activity_);
}

void DeviceExecutor::run(const Prepared& program) {
  using Clock = std::chrono::steady_clock;
  for (const InstructionGroup& group : program.order) {
    const Instruction& first = program.instructions[group.instructions[0]];
    if (watch_ && !(program.graph && program.graph->is_capturing())) watch_->keep_pace();
    activity_.enter(&first.place);
    const auto begin = profiling_ ? Clock::now() : Clock::time_point();
    try {
      run(program, group);
      if (profiling_) synchronize();
    } catch (const Error& error) {
      if (typeid(error) != typeid(Error)) throw;  // another rank's failure, or one that has its collective's name
      throw Error(fmt::format("program {}, instruction {}{}, {}: {}", first.place.program, first.place.instruction,
                              group.many ? fmt::format(" and {} more", group.instructions.size() - 1) : "",
                              LocalOp(*first.graph, *first.op, false).text(), error.what()));
    }
    if (profiling_) {
      Profile::Row& row = profile_.ops[first.op->definition->name];
      row.seconds += std::chrono::duration<double>(Clock::now() - begin).count();
      row.calls += static_cast<std::int64_t>(group.instructions.size());
      for (const std::size_t one : group.instructions) row.flops += program.instructions[one].flops;
    }
  }
  activity_.enter(nullptr);
  for (const auto& copy : program.copies)
    context_.succeed(context_.api().copy(arena_->data() + copy.to, arena_->data() + copy.from,
                                         static_cast<std::size_t>(copy.bytes), context_.stream()));
}

char* DeviceExecutor::place(std::string_view buffer, std::int64_t byte, std::size_t count) const {
  const auto slot = named_.slots.find(buffer);
  LONGHAUL_CHECK(slot != named_.slots.end(), "no buffer is called {}", buffer);
  LONGHAUL_CHECK(byte >= 0 && byte + static_cast<std::int64_t>(count) <= slot->second.bytes,
                 "bytes [{}, {}) of {}, which has {}", byte, byte + static_cast<std::int64_t>(count), buffer,
                 slot->second.bytes);
  return arena_->data() + slot->second.offset + byte;
}

void DeviceExecutor::synchronize() const {
  context_.device().synchronize();
  uploaded_ = 0;
}

void DeviceExecutor::read(std::string_view buffer, std::int64_t byte, std::span<std::byte> to) const {
  const char* from = place(buffer, byte, to.size());
  context_.device().enter();
  // Through pinned memory: a copy to other memory would hold the host in the driver, where it sees no lost rank.
  while (!to.empty()) {
    if (uploaded_ == uploads_->bytes()) synchronize();
    const std::size_t piece = std::min(to.size(), uploads_->bytes() - uploaded_);
    const char* const kept = uploads_->data() + uploaded_;
    context_.succeed(context_.api().copy(uploads_->data() + uploaded_, from, piece, context_.stream()));
    synchronize();
    std::memcpy(to.data(), kept, piece);
    from += piece;
    to = to.subspan(piece);
  }
}

void DeviceExecutor::write(std::string_view buffer, std::int64_t byte, std::span<const std::byte> from) {
  char* to = place(buffer, byte, from.size());
  context_.device().enter();
  while (!from.empty()) {
    if (uploaded_ == uploads_->bytes()) synchronize();
    const std::size_t piece = std::min(from.size(), uploads_->bytes() - uploaded_);
    char* const kept = uploads_->data() + uploaded_;
    std::memcpy(kept, from.data(), piece);
    context_.succeed(context_.api().copy(to, kept, piece, context_.stream()));
    uploaded_ += piece;
    to += piece;
    from = from.subspan(piece);
  }
}

void DeviceExecutor::keep_scalar(std::string_view buffer) {
  const char* const from = place(buffer, 0, sizeof(double));
  context_.device().enter();
  if (noted_ == noted_scalars) take_scalars();
  context_.succeed(
      context_.api().copy(scalars_->data() + noted_ * sizeof(double), from, sizeof(double), context_.stream()));
  ++noted_;
}

void DeviceExecutor::take_scalars() {
  synchronize();
  const std::size_t before = kept_.size();
  kept_.resize(before + noted_);
  std::memcpy(kept_.data() + before, scalars_->data(), noted_ * sizeof(double));
  noted_ = 0;
}

std::vector<double> DeviceExecutor::kept_scalars() {
  context_.device().enter();
  if (noted_ > 0) take_scalars();
  return std::exchange(kept_, {});
}

void DeviceExecutor::set_profiling(bool on) {
  if (on && graphs_)
    fail(
        "device.graphs is true, and instructions are to be timed one by one, which those of a graph cannot be: set "
        "device.graphs to false");
  profiling_ = on;
}

std::optional<Executor::Work> DeviceExecutor::work() const {
  cuda::Counters counters{};
  context_.succeed(context_.api().counters(&counters));
  return Work{counters.launches, counters.allocations, counters.synchronisations, counters.graph_launches,
              counters.graph_parts};
}

void DeviceExecutor::zero(std::string_view buffer) {
  char* const to = place(buffer, 0, 0);
  const auto bytes = static_cast<std::size_t>(named_.slots.find(buffer)->second.bytes);
  if (bytes == 0) return;
  context_.device().enter();
  context_.succeed(context_.api().fill(to, 0, bytes, context_.stream()));
}

Traffic DeviceExecutor::traffic() const {
  Traffic total;
  for (const auto& [axes, group] : groups_)
    for (std::size_t k = 0; k < total.rows.size(); ++k) {
      total.rows[k].calls += group.plane->traffic().rows[k].calls;
      total.rows[k].bytes_sent += group.plane->traffic().rows[k].bytes_sent;
    }
  return total;
}

void DeviceExecutor::reset_traffic() {
  for (auto& [axes, group] : groups_) group.plane->reset_traffic();
}

}  // namespace longhaul
