// From an experiment and a number of ranks to everything that compile and the session need. Here `auto` becomes
// numbers: by src/plan for the keys of parallelism, and here where it takes the host or a compiled run. Two come later:
// matrix libraries (libraries.h) and the end-of-document token (data/dataset.h).
#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "comm/communicator.h"
#include "compile/compile.h"
#include "config/experiment.h"
#include "model/huggingface.h"
#include "plan/parallelism.h"
#include "runtime/target.h"

namespace longhaul {

class ActivationChoice;
class CostModel;
struct MachineProfile;

/// Where ranks run.
struct Hosts {
  int ranks_here = 1;  ///< on the calling rank's host: they share its cores
  int neighbours = 1;  ///< every run of so many ranks, counted from rank 0, is on one host; the same on all ranks
  /// Bytes that a rank may count on when nothing else is said: three quarters of its host's memory divided among the
  /// ranks there, the least of all ranks. 0: unknown.
  std::int64_t memory = 0;
  std::int64_t device_memory = 0;  ///< bytes of a rank's GPU, the least of all ranks; 0: unknown, or none
  bool elsewhere = false;          ///< the run is meant for other machines than this: `memory` says nothing of them
  /// All `ranks` on this host.
  static Hosts one(int ranks);
  /// The same with the GPUs of this host, when the experiment is for one and they are there.
  static Hosts one(int ranks, const Experiment& experiment);
  /// Other machines with `ranks_here` ranks on each, in order.
  static Hosts target(int ranks_here);
};

/// What a run is prepared for: training compiles the programs of a step, evaluation only that of a batch's loss, and so
/// needs no memory for gradients and moments.
enum class Purpose : std::uint8_t { train, evaluate };

/// What text becomes tokens by, kept by checkpoints: with another the same files are other tokens.
struct TextReading {
  std::string tokenizer;  ///< "bytes", or its file
  std::string key;        ///< "bytes", or a hash of the tokenizer's contents, chat template and end token; "": no text
  bool operator==(const TextReading&) const = default;
};

struct RunSetup {
  Experiment experiment;
  LoadedModel model;
  Hosts hosts;
  ResolvedParallelism parallel;
  std::shared_ptr<Target> target;  ///< of this rank
  CompileRequest request;
  std::int64_t sequence = 1;  ///< as the experiment says; request.sequence is padded so that it divides over its ranks
  std::filesystem::path tokens_folder;  ///< where text becomes token files (run/text_tokens.h)
  /// Tokens that were made of the text of files, by the key that names those.
  std::map<std::string, std::filesystem::path> token_files;
  TextReading text;                               ///< how text is read that is trained on; filled with them
  std::shared_ptr<const MachineProfile> profile;  ///< of experiment.device.profile; null: none
  std::shared_ptr<ActivationChoice> activations;  ///< where activation_memory was chosen by memory; else null
  std::shared_ptr<const CostModel> costs;         ///< of this run on it; null without one
  /// Of `request`, where it was compiled last of all that was tried; else null.
  std::shared_ptr<CompiledModel> compiled;
  std::vector<std::string> decisions;  ///< what `auto` became, padding, and whatever else a user should know: log them
};

/// Collective.
Hosts find_hosts(Communicator& world);

/// What the choice of a split and of a token order depends on, for every layer of a model.
std::vector<AttentionLayer> attention_layers(const TransformerSpec& spec);

/// Reads the model and the machine's profile, makes the rank's target, and resolves parallelism, precision, memory and
/// threads. Throws Error for what cannot be done: a device or key value without an implementation, heads that do not
/// divide, a sequence longer than a learned position table, a budget for activations that nothing fits. Compiles the
/// run once when keep_gathered auto depends on its memory, and several times when activation_memory does.
RunSetup prepare_run(const Experiment& experiment, int world, const Hosts& hosts, Purpose purpose = Purpose::train);
/// The same of a model that has been read.
RunSetup prepare_run(const Experiment& experiment, const LoadedModel& model, int world, const Hosts& hosts,
                     Purpose purpose = Purpose::train);
/// The same before anything is chosen by memory: what is `auto` there is as without a limit, and nothing is compiled.
RunSetup place_run(const Experiment& experiment, const LoadedModel& model, int world, const Hosts& hosts,
                   Purpose purpose = Purpose::train);

/// Bytes of the arena that device.memory, device.profile and activation_memory.budget leave a run whose activations
/// are chosen, and the key that says so.
std::pair<std::int64_t, std::string> activation_limit(const RunSetup& setup);

}  // namespace longhaul
