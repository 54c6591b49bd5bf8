// verify: the programs of a run on its ranks, against the specification on one: the joint graph as it was before any
// pass that knows of ranks, in float64, with reference kernels.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "config/experiment.h"
#include "run/session.h"

namespace longhaul {

struct DataSource;
struct RunSetup;

struct VerificationOptions {
  bool locate = false;  ///< when something differs, name the pass and the op (see locate.h)
  bool force = false;   ///< also when the reference run takes very long or much memory
  bool shrink = false;  ///< verify a small run that is split in the same way (shrink.h) in the experiment's place
};

struct VerificationRow {
  std::string name;  ///< "loss", "grad_norm", or a tensor
  double error = 0;  ///< as tensor_errors defines it; of a number: |a − b| / |b|; absolute for a parameter whose
                     ///< reference gradient is zero
  double limit = 0;  ///< what the error may be
  double norm = 0;   ///< of the reference
  bool holds() const { return error <= limit; }
};

/// Filled on rank 0; on the others only `differs` is.
struct VerificationReport {
  std::vector<VerificationRow> rows;  ///< worst first (error / limit)
  std::vector<std::string> problems;  ///< what else is wrong, one sentence each
  std::vector<std::string> notes;     ///< what a reader should know: reference gradients that are zero, ...
  std::vector<std::string> location;  ///< with `locate`: where the difference begins
  bool differs = false;

  /// The table, the problems and the verdict.
  std::string text() const;
};

/// Runs one step on the first global batch of the experiment's own data, with its own weights or initialisation, on the
/// ranks of `world` and as the specification on rank 0; collective. Compares the loss, the gradient norm, every
/// gradient tensor and, in float64, every parameter after the update. Also holds the programs to what the compiler
/// promised: equal replicas on all ranks, the bytes that each rank sends, the size of its memory. Throws Error when the
/// experiment cannot run, or when the reference run would be unreasonable and `force` is not set.
VerificationReport verify_run(Communicator& world, const Experiment& experiment, const VerificationOptions& options);
/// The same of a prepared run; `open` gives the data, by default that of the experiment's files.
VerificationReport verify_run(Communicator& world, const RunSetup& setup, const VerificationOptions& options,
                              const std::function<DataSource()>& open = nullptr);

}  // namespace longhaul
