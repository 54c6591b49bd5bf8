// verify: the programs of a run on its ranks, against the specification on one: the joint graph as it was before any
// pass that knows of ranks, in float64, with reference kernels.
#pragma once
#include <functional>
#include <string>

#include "comm/communicator.h"
#include "config/experiment.h"
#include "verify/report.h"

namespace longhaul {

struct DataSource;
struct RunSetup;

struct VerificationOptions {
  bool locate = false;     ///< when something differs, name the pass and the op (see locate.h)
  bool force = false;      ///< also when the reference run takes very long or much memory
  bool shrink = false;     ///< verify a small run that is split in the same way (shrink.h) in the experiment's place
  std::string fault = "";  ///< a fault to plant in the ranks' run (faults.h); empty: none
};

/// Runs one step on the first global batch of the experiment's own data, with its own weights or initialisation, on the
/// ranks of `world` and as the specification on rank 0; collective. Compares the loss, the gradient norm, every
/// gradient tensor, every moment after the update and, in float64, every parameter. Also holds the programs to what the
/// compiler promised: equal replicas on all ranks, the bytes that each rank sends, the size of its memory. Throws Error
/// when the experiment cannot run, or when the reference run would be unreasonable and `force` is not set.
VerificationReport verify_run(Communicator& world, const Experiment& experiment, const VerificationOptions& options);
/// The same of a prepared run; `open` gives the data, by default that of the experiment's files.
VerificationReport verify_run(Communicator& world, const RunSetup& setup, const VerificationOptions& options,
                              const std::function<DataSource()>& open = nullptr);

}  // namespace longhaul
