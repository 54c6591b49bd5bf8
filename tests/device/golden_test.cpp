// Every family on the emulator against what Hugging Face transformers computed with it in float64: loss, norm and every
// element of every gradient, in float32 on one rank and in bfloat16 on two.
#include <algorithm>
#include <catch2/catch.hpp>

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

// On the targets that `target_of` makes.
template <typename Maker>
Seen run_on(const Maker& target_of, const Golden& golden, DType dtype, int ranks, int zero_stage) {
  const auto& optimizer = golden.manifest["optimizer"];
  CompileRequest request;
  request.spec = at_length(golden.model.spec, golden.sequence);
  request.options = options_for(golden.model.spec, dtype, zero_stage);
  request.options.meaning.optimizer.max_norm = optimizer["max_norm"];
  request.mesh = Mesh({{"dp", 1}, {"ring", 1}, {"ulysses", ranks}});
  request.batch = golden.rows;
  request.sequence = (golden.sequence + ranks - 1) / ranks * ranks;
  request.kinds = step_kinds(1, false);
  request.scratch = [target = std::shared_ptr<Target>(target_of())](const Graph& graph, const Op& op) {
    return target->scratch_bytes(graph, op);
  };
  const CompiledModel model = compile_model(request);
  Seen seen;
  run_threads(ranks, [&](Communicator& world) {
    const std::unique_ptr<Target> target = target_of();
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

}  // namespace

TEST_CASE("devices compute every family as transformers does in float64, as near as one rank on a CPU", "[threads]") {
  const auto names = golden_names();
  CHECK(names.size() > 20);
  for (const auto& name : names) {
    const Golden golden(name);
    const bool divides = std::ranges::all_of(golden.model.spec.each_layer(),
                                             [](const LayerSpec* layer) { return layer->attention.heads % 2 == 0; });
    for (const DType dtype : {DType::float32, DType::bfloat16}) {
      const int ranks = dtype == DType::bfloat16 && divides ? 2 : 1;
      INFO(name << ", " << name_of(dtype) << ", ranks " << ranks);
      const double roundoff = unit_roundoff(dtype);
      const Seen seen = run_on([] { return by_nccl(1); }, golden, dtype, ranks, ranks > 1 ? 3 : 0);
      double loss = 0;
      std::map<std::string, double> limits;
      for (const bool reference_only : {false, true}) {
        const auto cpu = [&] {
          return std::unique_ptr<Target>(std::make_unique<CpuTarget>(TargetOptions{.reference_only = reference_only}));
        };
        const Seen alone = run_on(cpu, golden, dtype, 1, 0);
        const LowPrecisionLimits one(alone.gradients, golden.gradients, roundoff);
        CHECK(one.whole() <= tolerance::one_rank_roundoffs * roundoff);
        loss = std::max(loss, one.of_number(relative_error(alone.loss, golden.loss), roundoff));
        for (const auto& [tensor, gradient] : golden.gradients)
          limits[tensor] = std::max(limits[tensor], one.of_tensor(tensor));
      }
      INFO("loss " << seen.loss << ", expected " << golden.loss << ", allowed " << loss);
      CHECK(relative_error(seen.loss, golden.loss) <= loss);
      CHECK(seen.gradients.size() == golden.gradients.size());
      double squares = 0;
      for (const auto& [tensor, gradient] : seen.gradients) squares += norm(gradient) * norm(gradient);
      CHECK(relative_error(seen.norm, std::sqrt(squares)) <= unit_roundoff(DType::float32));
      for (const auto& [tensor, error] : tensor_errors(seen.gradients, golden.gradients)) {
        INFO("gradient of " << tensor << ", error " << error << ", allowed " << limits.at(tensor));
        CHECK(error <= limits.at(tensor));
      }
    }
  }
}

}  // namespace longhaul
