// Longhaul's public interface: what the longhaul program's commands do, as functions. Nothing here depends on a private
// header.
//
// After `cmake --install`, find_package(longhaul) gives the target longhaul::longhaul; examples/library is a program
// that links it.
#pragma once
#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace longhaul {

/// What a step came to, as its line of metrics.jsonl says.
struct StepReport {
  std::int64_t step = 0, steps = 0;       ///< from 1, of training.steps
  std::optional<double> loss, grad_norm;  ///< none when no token of the step was a label
  double learning_rate = 0, tokens_per_second = 0, valid_tokens = 0, seconds = 0;
  std::string skipped;  ///< why the step was not taken (training.max_bad_steps); empty: it was
  /// Losses of the validation sets that the step was followed by, by name; "": data.validation_files.
  std::vector<std::pair<std::string, double>> validation;
};

/// Which run: an experiment file (docs/experiment.md), overrides ("section.key=value") and ranks.
struct RunRequest {
  std::filesystem::path experiment;
  std::vector<std::string> overrides = {};
  /// Threads of this process that act as ranks; 0: as launched (the processes of an MPI launcher, else one rank).
  int ranks = 0;
  /// How ranks talk: "auto", "threads", "mpi" or "sockets", as the program's --transport; "sockets" with `ranks`, and
  /// so "auto" on GPUs, starts processes that are copies of this one, which must have no other threads. With on_step or
  /// stop "auto" stays in this process.
  std::string transport = "auto";
  /// Called after each step in the process of rank 0, by one thread (not the caller's when ranks are threads), while
  /// the other ranks may go on; what it throws ends the run as an error.
  std::function<void(const StepReport&)> on_step = {};
  /// Once it is true, in any rank's process, the run stops after its step as it does after a signal: it saves and
  /// train returns 85. Ranks ask each other about every 50 ms. Must outlive the call; may be null.
  const std::atomic<bool>* stop = nullptr;
};

/// Trains to the last step, or finds the run finished, and returns 0; or 85 when a signal (TERM, INT, USR1, HUP,
/// handled while it runs), RunRequest::stop or training.time_limit stopped it after saving: called again it goes on.
/// Throws std::runtime_error with a message for people for everything that ends a run early. Under MPI a failed rank
/// prints its message and ends the whole job instead.
int train(const RunRequest& request);

/// What a compilation says before anything runs.
struct Compilation {
  std::int64_t bytes_per_rank = 0;       ///< of tensors, exactly what train maps
  std::int64_t host_bytes_per_rank = 0;  ///< of its host's memory, for what moves there
  std::vector<std::string> decisions;    ///< what `auto` became, padding and so on
  std::string memory;                    ///< the memory table as text
  std::string traffic;                   ///< bytes that rank 0 sends, by program and collective, as text
};

/// Compiles for `request.ranks` ranks (at least 1, any number: none is started) and runs nothing. `dump`, when not
/// empty, is a folder for the IR after every pass, the programs and the memory table. Throws std::runtime_error.
Compilation compile(const RunRequest& request, const std::filesystem::path& dump = {});

}  // namespace longhaul
