// State in shard groups, and parameters that are kept whole: against one rank, and from one placement to another.
#include <catch2/catch.hpp>
#include <filesystem>

#include "base/error.h"
#include "io/checkpoint.h"
#include "ranks.h"
#include "run/checkpoint_saver.h"
#include "run/checkpointing.h"
#include "small_experiment.h"

namespace longhaul {
namespace {

using namespace testing;

void check_cell(const Cell& cell, const Outcome& reference) {
  std::string problem;
  const Outcome outcome = run_ranks(cell, problem);
  INFO(cell.text());
  CHECK(problem == "");
  CHECK(difference(outcome, reference, tolerance::float64) == "");
}

struct Group {
  int data, ring, ulysses, size;
};
// Whole axes, a part of the data-parallel ones, single ranks; 3 of 6 divides no tensor evenly.
constexpr Group groups[] = {{2, 1, 2, 2}, {4, 1, 1, 2}, {1, 2, 2, 2}, {2, 1, 2, 1}, {6, 1, 1, 3}};

// Vocabularies and sizes that no group divides, and biases of fewer elements than ranks.
TransformerSpec tiny_tensors() {
  TransformerSpec spec = small_gpt2();
  LayerSpec layer = small_layer(2, 1, 1, 3);
  layer.rope = {};
  layer.attention.q_bias = layer.attention.k_bias = layer.attention.v_bias = layer.attention.o_bias = true;
  layer.norm.kind = NormKind::layer;
  layer.mlp = spec.layers[0].layer.mlp;
  layer.mlp.size = 3;
  spec.hidden_size = 3;
  spec.layers = {{1, layer}};
  return spec;
}

}  // namespace

TEST_CASE("shard groups equal one rank, with every stage", "[threads]") {
  for (const auto& spec : {small_llama(), small_gpt2()})
    for (const std::int64_t micro_batches : {1, 3}) {
      Cell cell{.spec = spec, .micro_batches = micro_batches, .rows = 12, .masking = Masking::uneven};
      const Outcome reference = run_reference(cell);
      for (const Group& group : groups)
        for (cell.zero_stage = 1; cell.zero_stage <= 3; ++cell.zero_stage) {
          cell.data = group.data;
          cell.ring = group.ring;
          cell.sequence_ranks = group.ulysses;
          cell.shard_group = group.size;
          check_cell(cell, reference);
        }
    }
}

TEST_CASE("parameters kept for backward or for the step equal one rank", "[threads]") {
  for (const auto& spec : {small_gpt2(), small_qwen3()})
    for (const std::int64_t micro_batches : {1, 2, 3}) {
      Cell cell{.spec = spec,
                .zero_stage = 3,
                .micro_batches = micro_batches,
                .rows = 4,
                .masking = Masking::one_rank_ignored};
      const Outcome reference = run_reference(cell);
      for (const KeepGathered gathered : {KeepGathered::backward, KeepGathered::step})
        for (const Group& group : {Group{2, 1, 1, 0}, {2, 1, 2, 2}, {1, 2, 2, 0}}) {
          cell.data = group.data;
          cell.ring = group.ring;
          cell.sequence_ranks = group.ulysses;
          cell.shard_group = group.size;
          cell.gathered = gathered;
          check_cell(cell, reference);
        }
    }
}

TEST_CASE("tensors smaller than their group, and tied ones, equal one rank", "[threads]") {
  Cell cell{.spec = tiny_tensors(), .micro_batches = 2, .rows = 8, .masking = Masking::uneven};
  const Outcome reference = run_reference(cell);
  for (const int group : {0, 4})
    for (const KeepGathered gathered : {KeepGathered::never, KeepGathered::step})
      for (cell.zero_stage = 1; cell.zero_stage <= 3; ++cell.zero_stage) {
        cell.data = 8;
        cell.shard_group = group;
        cell.gathered = gathered;
        check_cell(cell, reference);
      }
}

TEST_CASE("float32 and bfloat16 in shard groups are as near to float64 as one rank is", "[threads]") {
  for (const DType dtype : {DType::float32, DType::bfloat16})
    for (const KeepGathered gathered : {KeepGathered::never, KeepGathered::step}) {
      Cell cell{.spec = small_qwen3(), .micro_batches = 3, .rows = 4, .masking = Masking::uneven, .dtype = dtype};
      const Outcome reference = run_reference(cell);
      std::string problem;
      const auto one = tensor_errors(run_ranks(cell, problem).gradients, reference.gradients);
      cell.data = cell.sequence_ranks = cell.shard_group = 2;
      cell.zero_stage = 3;
      cell.gathered = gathered;
      const Outcome outcome = run_ranks(cell, problem);
      INFO(cell.text());
      CHECK(problem == "");
      for (const auto& [name, error] : tensor_errors(outcome.gradients, reference.gradients)) {
        INFO(name << ": error " << error << ", one rank " << one.at(name));
        CHECK(error <= tolerance::ratio_to_one_rank * std::max(one.at(name), unit_roundoff(dtype)));
      }
    }
}

TEST_CASE("gradients accumulated and reduced in the experiment's dtypes", "[threads]") {
  const TransformerSpec spec = small_llama();
  for (const auto& [accumulated, reduced] : {std::pair{DType::float32, DType::bfloat16},
                                             {DType::bfloat16, DType::bfloat16},
                                             {DType::bfloat16, DType::float32}})
    for (int stage = 0; stage <= 3; ++stage)
      for (const int group : {0, 2}) {
        if (stage == 0 && group) continue;
        Cell cell{.spec = spec,
                  .data = 2,
                  .sequence_ranks = 2,
                  .zero_stage = stage,
                  .micro_batches = 3,
                  .rows = 4,
                  .dtype = DType::float32,
                  .shard_group = group};
        CompileRequest request = request_for(cell);
        request.options.precision.gradient = accumulated;
        request.options.precision.gradient_reduce = reduced;
        const CompiledModel model = compile_model(request);
        std::string problem;
        Outcome outcome;
        run_threads(4, [&](Communicator& world) {
          std::string mine;
          Outcome one = run_rank(world, cell, request, model, mine);
          if (world.rank() == 0) {
            outcome = std::move(one);
            problem = mine;
          }
          return 0;
        });
        INFO(cell.text() << " accumulated " << name_of(accumulated) << " reduced " << name_of(reduced));
        CHECK(problem == "");
        double worst = 0;
        for (const auto& [name, error] : tensor_errors(outcome.gradients, run_reference(cell).gradients))
          worst = std::max(worst, error);
        // Three micro-batches and sums over four ranks: a handful of roundings, and more than float32 would leave.
        CHECK(worst < 8 * unit_roundoff(DType::bfloat16));
        CHECK(worst > unit_roundoff(DType::bfloat16) / 64);
        // What is kept and what travels has the width that was asked for.
        const auto& named = model.named.slots;
        std::int64_t elements = 16 * 29, held = stage >= 2 ? elements / (group ? 2 : 4) : elements;
        CHECK(named.at("accumulator.head.weight").bytes ==
              (held * static_cast<std::int64_t>(size_of(accumulated)) + 63) / 64 * 64);
      }
}

TEST_CASE("a checkpoint goes on in other shard groups", "[threads]") {
  const SmallExperiment place(small_llama());
  const TransformerSpec spec = small_gpt2();
  const auto cell_of = [&](int data, int ulysses, int stage, int group) {
    return Cell{.spec = spec,
                .data = data,
                .sequence_ranks = ulysses,
                .zero_stage = stage,
                .rows = 4,
                .masking = Masking::uneven,
                .shard_group = group};
  };
  const auto steps = [&](const Cell& cell, Session& session, std::int64_t first, std::int64_t last) {
    double loss = 0;
    for (std::int64_t step = first; step <= last; ++step)
      loss = session
                 .step(step, 1e-2, 1,
                       [&](std::int64_t) {
                         fill_slice(session, make_batch(spec, 4, 16, static_cast<int>(step), cell.masking), 16);
                       })
                 .loss;
    return loss;
  };
  const std::string folder = (place.folder() / "checkpoints").string();
  double expected = 0;
  {
    const Cell cell = cell_of(2, 2, 3, 2);
    const CompileRequest request = request_for(cell);
    const CompiledModel model = compile_model(request);
    run_threads(4, [&](Communicator& world) {
      CpuTarget cpu;
      Session session(world, cpu, request, model);
      session.set_parameters(random_parameters(spec, 11));
      steps(cell, session, 1, 2);
      CheckpointStore store(folder, 0);
      TrainerState state;
      state.step = 2;
      if (const std::string refused = save_checkpoint(session, store, state); !refused.empty()) fail("{}", refused);
      const double loss = steps(cell, session, 3, 4);
      if (world.rank() == 0) expected = loss;
      return 0;
    });
  }
  const Checkpoint checkpoint(list_checkpoints(folder).at(0).path);  // refused when a range is missing or there twice
  for (const Cell& cell : {cell_of(1, 1, 0, 0), cell_of(2, 2, 3, 0), cell_of(4, 1, 2, 2), cell_of(2, 2, 1, 1)}) {
    INFO(cell.text());
    const CompileRequest request = request_for(cell);
    const CompiledModel model = compile_model(request);
    double loss = 0;
    run_threads(cell.world(), [&](Communicator& world) {
      CpuTarget cpu;
      Session session(world, cpu, request, model);
      load_checkpoint(session, checkpoint);
      const double mine = steps(cell, session, 3, 4);
      if (world.rank() == 0) loss = mine;
      return 0;
    });
    CHECK(std::abs(loss - expected) <= tolerance::float64 * expected);
  }
}

TEST_CASE("every rank's state lies in its group, and copies outside it are numbered") {
  const Cell cell{.spec = small_llama(), .data = 4, .zero_stage = 3, .rows = 4, .shard_group = 2};
  const CompileRequest request = request_for(cell);
  const CompiledModel model = compile_model(request);
  run_threads(4, [&](Communicator& world) {
    CpuTarget cpu;
    Session session(world, cpu, request, model);
    for (const auto& tensor : session.state()) {
      const std::int64_t half = (element_count(tensor.shape) + 1) / 2;
      const std::int64_t begin = world.rank() % 2 ? half : 0;
      if (tensor.whole || tensor.begin != begin || tensor.copy != world.rank() / 2)
        throw std::runtime_error(tensor.name + " is not in its group");
    }
    return 0;
  });
}

}  // namespace longhaul
