// Every family on the emulator against what Hugging Face transformers computed with it in float32: loss, norm and every
// gradient, on one rank and on two.
#include <catch2/catch.hpp>
#include <cmath>

#include "../golden/golden_model.h"
#include "../train/small_models.h"
#include "comm/launch.h"
#include "emulated.h"
#include "model/rope.h"

namespace longhaul {
namespace {

using namespace testing;

struct Seen {
  double loss = 0, norm = 0;
  Tensors gradients;  // by transformers' names
};

Seen run_on_devices(const Golden& golden, int ranks, int zero_stage) {
  const auto& optimizer = golden.manifest["optimizer"];
  CompileRequest request;
  request.spec = at_length(golden.model.spec, golden.sequence);
  request.options = options_for(golden.model.spec, DType::float32, zero_stage);
  request.options.meaning.optimizer.max_norm = optimizer["max_norm"];
  request.mesh = Mesh({{"dp", 1}, {"ring", 1}, {"ulysses", ranks}});
  request.batch = golden.rows;
  request.sequence = (golden.sequence + ranks - 1) / ranks * ranks;
  request.kinds = step_kinds(1, false);
  request.scratch = [target = std::shared_ptr<Target>(by_nccl(1))](const Graph& graph, const Op& op) {
    return target->scratch_bytes(graph, op);
  };
  const CompiledModel model = compile_model(request);
  Seen seen;
  run_threads(ranks, [&](Communicator& world) {
    const std::unique_ptr<Target> target = by_nccl(1);
    Session session(world, *target, request, model);
    session.set_parameters(golden.source());
    const auto fill = [&](std::int64_t) { fill_slice(session, golden.batch, golden.sequence); };
    const StepResult result = session.accumulate(1, fill);
    Tensors gradients;
    for (const auto& parameter : parameters(golden.model.spec))
      gradients[parameter.name] = session.gather(session.state("gradient." + parameter.name));
    const double norm = session.update(1, optimizer["lr"]);
    if (world.rank() == 0) seen = {result.loss, norm, golden.in_their_shape(gradients)};
    return 0;
  });
  return seen;
}

void check_close(double value, double expected) {
  INFO("value " << value << ", expected " << expected);
  CHECK(std::abs(value - expected) <= tolerance::transformers_float32 * std::abs(expected));
}

}  // namespace

TEST_CASE("a device computes every family as transformers does, in float32", "[threads]") {
  const auto names = golden_names();
  CHECK(names.size() > 20);
  for (const auto& name : names)
    for (const auto& [ranks, zero_stage] : {std::pair{1, 0}, {2, 3}}) {
      const Golden golden(name);
      const auto divides = [&](const LayerSpec* layer) { return layer->attention.heads % ranks == 0; };
      if (!std::ranges::all_of(golden.model.spec.each_layer(), divides)) continue;
      INFO(name << " on " << ranks << " ranks, ZeRO " << zero_stage);
      const auto& theirs = golden.manifest["unpatched_float32"];
      const Seen seen = run_on_devices(golden, ranks, zero_stage);
      check_close(seen.loss, theirs["loss"]);
      check_close(seen.norm, theirs["gradient_norm"]);
      CHECK(seen.gradients.size() == golden.gradients.size());
      for (const auto& [tensor, gradient] : seen.gradients) {
        INFO("gradient of " << tensor);
        check_close(norm(gradient), theirs["gradient_norms"][tensor]);
      }
    }
}

}  // namespace longhaul
