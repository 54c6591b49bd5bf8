// The one place outside src/runtime that names back ends: an experiment's device becomes a Target.
#pragma once
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "config/experiment.h"
#include "runtime/target.h"

namespace longhaul {

/// The target of one rank, of `ranks_here` that share its host's cores, with the threads that training.threads says
/// (auto: the rank's share of the cores) and the kernels that LONGHAUL_KERNELS asks for. Throws Error for a device.type
/// that this build has no executor of.
std::shared_ptr<Target> make_target(const Experiment& experiment, int ranks_here);

/// Bytes of a GPU of this host when device.type is cuda and one is there; 0: none, or where a rank's buffers lie in its
/// host's memory. Throws Error as make_target does.
std::int64_t device_memory(const Experiment& experiment);

/// The CPU, for work of one rank beside a run or without one.
std::shared_ptr<Target> host_target(int threads);

/// Libraries that this build computes with and their versions: ("oneDNN", "2.6.0"). Equal wherever the libraries are.
std::vector<std::pair<std::string, std::string>> library_versions();
/// The instruction set of our kernels on this machine ("avx2"). Throws Error when LONGHAUL_ISA asks for another's.
std::string instruction_set();
/// The processor for which a library has chosen its kernels on this machine; empty when none does.
std::string library_kernels();

}  // namespace longhaul
