#include "run/libraries.h"

#include "base/error.h"
#include "comm/exchange.h"

namespace longhaul {

std::string choose_libraries(Communicator& world, const RunSetup& setup, const CompiledModel& model,
                             const std::string& decided, const std::string& source) {
  const Experiment& experiment = setup.experiment;
  Target& target = *setup.target;
  const bool automatic = experiment.training.matmul == MatmulLibrary::automatic;
  LibraryPolicy policy;
  policy.only = automatic ? "" : value_of(experiment, "training.matmul");
  // OpenBLAS lets one caller at a time use several threads, and the others spin: no gain for ranks of one process.
  const bool alone = target.options().threads == 1 || world.size() == 1;
  policy.measures = automatic && !experiment.training.deterministic && alone && !target.options().reference_only;
  std::string summary;
  phase(world, [&] {
    target.set_library_policy(policy, experiment.training.dtype, "training.matmul");
    if (world.rank() != 0) return;
    try {
      target.set_libraries(decided);  // read once before, so that errors of reading it name where it is from
    } catch (const Error& error) {
      fail("{}: {}", source, error.what());
    }
    summary = target.choose_libraries(model.all(), decided);
  });
  target.set_libraries(broadcast_text(world, target.libraries()));
  return broadcast_text(world, summary);
}

}  // namespace longhaul
