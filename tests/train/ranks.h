// One cell of the equivalence matrix: a small model on some ranks, and the same by the specification.
#pragma once
#include <catch2/catch.hpp>
#include <mutex>
#include <numeric>
#include <string>

#include <fmt/format.h>

#include "plan/mesh.h"
#include "runtime/cpu/target.h"
#include "small_models.h"

namespace longhaul::testing {

struct Cell {
  TransformerSpec spec;
  int data = 1, sequence_ranks = 1, zero_stage = 0;
  std::int64_t micro_batches = 1, rows = 2, sequence = 16;
  Masking masking = Masking::plain;
  DType dtype = DType::float64;
  int threads = 1;
  int ring = 1, gather = 1;  // ranks outside the sequence_ranks of Ulysses
  TokenOrder order = TokenOrder::contiguous;
  int shard_group = 0;  // 0: all ranks
  KeepGathered gathered = KeepGathered::never;
  std::map<std::string, std::string> window_axes = {};  // see CompileOptions
  ActivationMode activations = ActivationMode::automatic;
  std::vector<int> recompute_steps = {};
  std::int64_t offload_values = 0;                           // see Schedule
  std::int64_t overlap_memory = 0;                           // see Schedule
  std::int64_t bucket_size = 4 << 20;                        // see Schedule
  std::int64_t tile_rows = row_block;                        // of MLPs, under ActivationMode::recompute
  std::unique_ptr<Target> (*device)(int threads) = nullptr;  // what the ranks compute on; null: the CPU

  std::unique_ptr<Target> target() const {
    return device ? device(threads) : std::make_unique<CpuTarget>(TargetOptions{.threads = threads});
  }
  int outer() const { return ring * gather; }
  int world() const { return data * outer() * sequence_ranks; }
  /// Padded so that every rank's chunks are full.
  std::int64_t padded() const {
    const std::int64_t chunks = chunks_of(order);
    const std::int64_t unit = outer() * std::lcm(chunks, std::int64_t{sequence_ranks});
    return (sequence + unit - 1) / unit * unit;
  }
  std::string text() const {
    const auto& attention = spec.layers[0].layer.attention;
    std::string windows;
    for (const auto& [axis, strategy] : window_axes) windows += fmt::format(" windows: {} as {}", axis, strategy);
    return fmt::format(
        "heads {}:{} dp {} ring {} gather {} ulysses {} {} zero {} group {} gathered {} micro-batches {} rows {} S {} "
        "masking {} {}{}",
        attention.heads, attention.kv_heads, data, ring, gather, sequence_ranks, name_of(order), zero_stage,
        shard_group, static_cast<int>(gathered), micro_batches, rows, sequence, static_cast<int>(masking),
        name_of(dtype), windows);
  }
};

struct Outcome {
  StepResult first, second;
  Tensors gradients, parameters;
};

inline CompileRequest request_for(const Cell& cell) {
  CompileRequest request;
  request.spec = cell.spec;
  request.options = options_for(cell.spec, cell.dtype, cell.zero_stage);
  request.mesh =
      Mesh({{"dp", cell.data}, {"ring", cell.ring}, {"gather", cell.gather}, {"ulysses", cell.sequence_ranks}});
  if (cell.shard_group) {
    ResolvedParallelism parallel;
    parallel.data = cell.data;
    parallel.ring = cell.ring;
    parallel.gather = cell.gather;
    parallel.ulysses = cell.sequence_ranks;
    parallel.zero_stage = cell.zero_stage;
    parallel.shard_group = cell.shard_group;
    request.mesh = place_ranks(parallel, request.options.placement);
  }
  request.options.schedule.keep_gathered = cell.gathered;
  request.options.schedule.activations = cell.activations;
  request.options.schedule.recompute_steps = cell.recompute_steps;
  request.options.schedule.tile_rows = cell.tile_rows;
  request.options.schedule.offload_values = cell.offload_values;
  request.options.schedule.overlap_memory = cell.overlap_memory;
  request.options.schedule.bucket_size = cell.bucket_size;
  request.batch = cell.rows;
  request.sequence = cell.padded();
  request.options.placement.token_order = cell.order;
  request.options.placement.window_axes = cell.window_axes;
  request.kinds = step_kinds(cell.micro_batches, false);
  request.scratch = [target = std::shared_ptr<Target>(cell.target())](const Graph& graph, const Op& op) {
    return target->scratch_bytes(graph, op);
  };
  return request;
}

/// Two steps on this rank; collective. Also checks, on every rank, that what was sent is what the programs predict and
/// that the arena is as planned.
inline Outcome run_rank(Communicator& world, const Cell& cell, const CompileRequest& request,
                        const CompiledModel& model, std::string& problem) {
  const std::unique_ptr<Target> target = cell.target();
  Session session(world, *target, request, model);
  session.set_parameters(random_parameters(cell.spec, 11));
  const auto fill = [&](int step) {
    return [&, step](std::int64_t i) {
      fill_slice(session,
                 make_batch(cell.spec, cell.rows, cell.sequence, static_cast<int>(step * 10 + i), cell.masking),
                 cell.sequence);
    };
  };
  Outcome outcome;
  outcome.first = session.accumulate(cell.micro_batches, fill(0));
  for (const auto& tensor : session.state())
    if (tensor.key.role == Role::gradient) outcome.gradients[tensor.name] = session.gather(tensor);
  outcome.first.grad_norm = session.update(1, 1e-2);
  session.executor().reset_traffic();
  outcome.second = session.step(2, 1e-2, cell.micro_batches, fill(1));
  const Traffic sent = session.executor().traffic();
  for (const auto& tensor : session.state())
    if (tensor.key.role == Role::parameter) outcome.parameters[tensor.name] = session.gather(tensor);

  std::map<std::string, std::int64_t> predicted;
  const auto predict = [&](ProgramKind kind) {
    for (const auto& row : predicted_traffic("", model.program(kind), world.rank()))
      predicted[row.collective] += row.bytes_sent;
  };
  for (std::int64_t i = 0; i < cell.micro_batches; ++i) {
    if (!session.counts_on_host()) predict(ProgramKind::count);
    predict(accumulate_kind(i, cell.micro_batches));
  }
  predict(ProgramKind::update);
  for (int k = 0; k < static_cast<int>(Collective::count_); ++k) {
    const auto kind = static_cast<Collective>(k);
    const std::string name(kind == Collective::send_receive ? "shift" : name_of(kind));
    if (sent[kind].bytes_sent != predicted[name])
      problem = fmt::format("rank {} sent {} bytes by {}, predicted {}", world.rank(), sent[kind].bytes_sent, name,
                            predicted[name]);
  }
  if (session.executor().arena_bytes() != model.arena_bytes)
    problem = fmt::format("the arena has {} bytes, planned {}", session.executor().arena_bytes(), model.arena_bytes);
  if (session.executor().host_arena_bytes() != model.host_bytes)
    problem =
        fmt::format("the host arena has {} bytes, planned {}", session.executor().host_arena_bytes(), model.host_bytes);
  return outcome;
}

/// On threads. Replicas must be bitwise equal: the outcome of every rank is compared with rank 0's.
inline Outcome run_ranks(const Cell& cell, std::string& problem) {
  const CompileRequest request = request_for(cell);
  const CompiledModel model = compile_model(request);
  std::vector<Outcome> outcomes(static_cast<std::size_t>(cell.world()));
  std::mutex mutex;
  run_threads(cell.world(), [&](Communicator& world) {
    std::string mine;
    outcomes[static_cast<std::size_t>(world.rank())] = run_rank(world, cell, request, model, mine);
    const std::lock_guard lock(mutex);
    if (!mine.empty()) problem = mine;
    return 0;
  });
  for (const auto& outcome : outcomes)
    if (outcome.parameters != outcomes[0].parameters || outcome.gradients != outcomes[0].gradients ||
        outcome.first.loss != outcomes[0].first.loss)
      problem = "replicas differ between ranks";
  return outcomes[0];
}

inline bool same_bits(const Outcome& one, const Outcome& other) {
  return one.first.loss == other.first.loss && one.second.loss == other.second.loss &&
         one.first.grad_norm == other.first.grad_norm && one.second.grad_norm == other.second.grad_norm &&
         one.gradients == other.gradients && one.parameters == other.parameters;
}

/// Losses, norms, gradients and parameters of two runs are the same bits; checks each.
inline void check_same_bits(const Outcome& one, const Outcome& other) {
  CHECK(one.first.loss == other.first.loss);
  CHECK(one.second.loss == other.second.loss);
  CHECK(one.first.grad_norm == other.first.grad_norm);
  CHECK(one.second.grad_norm == other.second.grad_norm);
  CHECK(one.gradients == other.gradients);
  CHECK(one.parameters == other.parameters);
}

inline Outcome run_reference(const Cell& cell) {
  const CompileRequest request = request_for(cell);
  ReferenceRun reference(request.spec, request.options.meaning, request.batch, cell.sequence);
  reference.set_parameters(random_parameters(cell.spec, 11), request.options.precision.master());
  const auto batches = [&](int step) {
    std::vector<HostBatch> list;
    for (std::int64_t i = 0; i < cell.micro_batches; ++i)
      list.push_back(make_batch(cell.spec, cell.rows, cell.sequence, static_cast<int>(step * 10 + i), cell.masking));
    return list;
  };
  Outcome outcome;
  outcome.first = reference.accumulate(batches(0));
  for (const auto& parameter : parameters(cell.spec)) {
    const std::string name = name_of(StateKey{Role::gradient, parameter.name});
    outcome.gradients[name] = reference.values(name);
  }
  outcome.first.grad_norm = reference.update(1, 1e-2);
  outcome.second = reference.step(2, 1e-2, batches(1));
  for (const auto& parameter : parameters(cell.spec))
    outcome.parameters[parameter.name] = reference.values(parameter.name);
  return outcome;
}

/// Empty when equal within the float64 tolerance, else the first difference.
inline std::string difference(const Outcome& ranks, const Outcome& reference, double limit) {
  const auto far = [&](double a, double b) { return !(std::abs(a - b) <= limit * std::abs(b)); };
  if (far(ranks.first.loss, reference.first.loss))
    return fmt::format("loss {} for {}", ranks.first.loss, reference.first.loss);
  if (far(ranks.second.loss, reference.second.loss))
    return fmt::format("second loss {} for {}", ranks.second.loss, reference.second.loss);
  if (ranks.first.valid_tokens != reference.first.valid_tokens) return "valid tokens differ";
  if (far(ranks.first.grad_norm, reference.first.grad_norm))
    return fmt::format("norm {} for {}", ranks.first.grad_norm, reference.first.grad_norm);
  for (const auto& [name, error] : tensor_errors(ranks.gradients, reference.gradients))
    if (!(error <= limit)) return fmt::format("{}: error {}", name, error);
  for (const auto& [name, error] : parameter_errors(ranks.parameters, reference.parameters, reference.gradients))
    if (!(error <= limit)) return fmt::format("{} after two steps: error {}", name, error);
  return "";
}

}  // namespace longhaul::testing
