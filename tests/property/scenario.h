// A random experiment: a model of layers that need not be alike, a split, a batch and its documents and masks. Written
// as the files that `longhaul verify` reads, so that a failure is an experiment of anyone's.
#pragma once
#include <cstdint>
#include <filesystem>
#include <iosfwd>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "model/spec.h"

namespace longhaul::testing {

struct Scenario {
  TransformerSpec spec;
  int data = 1, ulysses = 1, ring = 1, gather = 1, zero_stage = 0;
  int world = 1;                 ///< ranks that are launched
  std::string order = "auto";    ///< parallelism.token_order
  std::int64_t sequence = 1;     ///< training.seq_len
  std::int64_t rows = 1;         ///< training.micro_batch_size
  std::int64_t batch = 1;        ///< training.global_batch_size
  std::vector<int> documents;    ///< their lengths, repeated to the end of the data; empty: the format knows of none
  bool packed = false;           ///< data.packing: {mode: documents}
  bool whole = false;            ///< where it is packed: {mode: best_fit}
  std::string longer = "split";  ///< and its `long`: split, truncate or skip
  std::vector<int> ignored;      ///< runs of tokens that are no label, and that are, in turn, repeated; empty: no mask
  std::string activations = "auto";  ///< activation_memory.mode
  bool offload = false;              ///< activation_memory.offload: on
  bool overlap = false;              ///< parallelism.overlap: on
  DType dtype = DType::float64;

  std::int64_t samples() const { return batch < 1 ? 1 : batch; }
};
/// For messages.
std::ostream& operator<<(std::ostream& out, const Scenario& scenario);

/// Writes experiment.yaml, model.json and the data into `folder`; returns the experiment file.
std::filesystem::path write_experiment(const Scenario& scenario, const std::filesystem::path& folder);
/// The command that replays it.
std::string verify_command(const Scenario& scenario, const std::filesystem::path& experiment);

/// Empty when the program must run it; else a part of each message with which it may refuse. An experiment may have
/// several faults: which of them is told first is the program's choice, that it is one of them is not.
std::vector<std::string> refusals(const Scenario& scenario);

/// The smallest hidden size with which a comparison to 1e-10 means something. Layer norm makes of two elements +1 and
/// -1 whatever they are, but for epsilon: its gradient is a difference of nearly equal numbers, of which rounding
/// leaves few digits (a relative error of 1e-9 and more was seen). Three elements keep a direction of their own.
std::int64_t least_hidden_size(const TransformerSpec& spec);

/// Simpler scenarios that differ in one thing, the boldest steps first.
std::vector<Scenario> simpler(const Scenario& scenario);

}  // namespace longhaul::testing
