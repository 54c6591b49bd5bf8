// The one place outside src/runtime that names back ends: an experiment's device becomes a Target.
#pragma once
#include <memory>

#include "config/experiment.h"
#include "runtime/target.h"

namespace longhaul {

/// The target of one rank, of `ranks_here` that share its host's cores, with the threads that training.threads says
/// (auto: the rank's share of the cores) and the kernels that LONGHAUL_KERNELS asks for. Throws Error for a device.type
/// that this build has no executor of.
std::shared_ptr<Target> make_target(const Experiment& experiment, int ranks_here);

}  // namespace longhaul
