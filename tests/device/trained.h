// Runs of some steps on any target, from and to checkpoints.
#pragma once
#include <string>
#include <vector>

#include "../proof/matrix.h"
#include "run/checkpoint_saver.h"
#include "run/checkpointing.h"

namespace longhaul::testing {

/// All bytes that this rank holds of what a checkpoint keeps.
inline std::string state_bytes(Session& session) {
  std::string all;
  std::vector<std::byte> room;
  for (const auto& tensor : session.state()) {
    const Role role = tensor.key.role;
    if (role != Role::parameter && role != Role::first_moment && role != Role::second_moment) continue;
    const auto bytes = session.elements(tensor, tensor.begin, tensor.end, room);
    all += tensor.name + " " + std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  return all;
}

struct Trained {
  std::vector<double> losses;  // and norms
  std::string loaded, state;   // of all ranks
};

/// From the checkpoint of `first - 1` (or a fresh start at 1) to step `last`, and its checkpoint. No two steps have one
/// learning rate.
inline Trained train(const Cell& cell, const std::string& folder, int first, int last) {
  const CompileRequest request = request_for(cell);
  const CompiledModel model = compile_model(request);
  Trained trained;
  std::vector<std::string> loaded(static_cast<std::size_t>(cell.world())), states(loaded.size());
  run_threads(cell.world(), [&](Communicator& world) {
    const std::unique_ptr<Target> target = cell.target();
    Session session(world, *target, request, model);
    if (first == 1)
      session.set_parameters(random_parameters(cell.spec, 11));
    else
      load_checkpoint(session, Checkpoint(fmt::format("{}/step-{:08d}", folder, first - 1)));
    const auto rank = static_cast<std::size_t>(world.rank());
    loaded[rank] = state_bytes(session);
    for (int step = first; step <= last; ++step) {
      const StepResult result = session.step(step, 1e-2 / step, cell.micro_batches, [&](std::int64_t i) {
        fill_slice(session,
                   make_batch(cell.spec, cell.rows, cell.sequence, static_cast<int>(step * 10 + i), cell.masking),
                   cell.sequence);
      });
      if (rank == 0) trained.losses.insert(trained.losses.end(), {result.loss, result.grad_norm});
    }
    states[rank] = state_bytes(session);
    CheckpointStore store(folder, 2);
    TrainerState state;
    state.step = last;
    state.experiment = state.model = state.libraries = "{}";
    LONGHAUL_CHECK(save_checkpoint(session, store, state).empty(), "the save failed");
    return 0;
  });
  for (const auto& one : loaded) trained.loaded += one;
  for (const auto& one : states) trained.state += one;
  return trained;
}

}  // namespace longhaul::testing
