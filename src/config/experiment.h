// The experiment file: what one run does. YAML or JSON, sections and keys as docs/experiment.md lists them. One table,
// experiment_keys.cpp, gives every key its type, default, limits and meaning; reading, printing, the JSON Schema and
// the documentation all come from it.
#pragma once
#include <array>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/choices.h"
#include "base/dtype.h"
#include "base/train_on.h"
#include "config/data_set.h"

namespace longhaul {

enum class DecayType : std::uint8_t { linear, cosine, constant, wsd };
enum class ResumeMode : std::uint8_t { automatic, off, restart };
enum class MatmulLibrary : std::uint8_t { automatic, onednn, openblas };
enum class DeviceType : std::uint8_t { cpu, cuda, emulator };
/// Formats of chats by name; automatic: the template beside the tokenizer.
enum class ChatFormatName : std::uint8_t { automatic, chatml, llama3, mistral, gemma, phi3 };
enum class PackingMode : std::uint8_t { documents, best_fit };
/// What becomes of a document that is longer than a sample.
enum class LongDocuments : std::uint8_t { split, truncate, skip };

/// How many ways each strategy splits a sequence; they multiply. docs/parallelism.md says what each does.
struct SequenceSplit {
  std::int64_t ulysses = 1, ring = 1, gather_kv = 1;
  std::int64_t ranks() const { return ulysses * ring * gather_kv; }
  bool operator==(const SequenceSplit&) const = default;
};

/// model.rope: fields of a spec's `rope` (docs/spec.md) by their names there, those that were given.
struct RopeOverride {
  std::string type;
  std::vector<std::pair<std::string, double>> numbers;             ///< in the order of rope_override_fields
  std::vector<std::pair<std::string, std::vector<double>>> lists;  ///< short_factors, long_factors
  std::optional<bool> truncate;
  bool operator==(const RopeOverride&) const = default;
};

struct Experiment {
  /// Every key at its default. model.config and data.files have none and are empty.
  Experiment();

  struct Job {
    bool operator==(const Job&) const = default;
    std::string name;              ///< default: the experiment file's name without its ending
    std::filesystem::path folder;  ///< run folder; default: runs/<name> beside the experiment file
  } job;
  struct Model {
    bool operator==(const Model&) const = default;
    std::filesystem::path config;   ///< a spec or config.json file, or a Hugging Face folder
    std::filesystem::path weights;  ///< a folder or a safetensors file; empty: initialise at random
    std::int64_t init_seed = 0;
    std::optional<RopeOverride> rope;                     ///< none: as the model says
    std::optional<std::int64_t> max_position_embeddings;  ///< none: as the model says, or as `rope` stretches it
    std::optional<std::int64_t> vocab_size;               ///< none: as the model says
  } model;
  struct Data {
    bool operator==(const Data&) const = default;
    std::vector<std::filesystem::path> files;
    std::string format;               ///< the name of one that is registered (config/data_format.h)
    std::filesystem::path tokenizer;  ///< `auto`, `bytes`, or a folder or file
    ChatFormatName chat_format{};
    TrainOn train_on{};
    std::optional<std::int64_t> eos_token;  ///< none: auto; -1: documents have no end token
    std::vector<std::filesystem::path> validation_files;
    std::vector<DataSet> sources;             ///< a mixture, in place of files
    std::optional<std::int64_t> token_bytes;  ///< of ids in files without a header; none: by the vocabulary
    bool mask_prompt = false;                 ///< jsonl: the loss leaves prompts out
    std::optional<PackingMode> packing;       ///< none: documents in a sample attend to each other
    LongDocuments long_documents{};           ///< of packing best_fit
  } data;
  struct Training {
    bool operator==(const Training&) const = default;
    std::int64_t seq_len = 0;
    std::int64_t micro_batch_size = 0;              ///< sequences per data-parallel rank per micro-batch
    std::optional<std::int64_t> global_batch_size;  ///< sequences per optimizer step; none: micro_batch_size x data
    std::int64_t steps = 0;
    double max_norm = 0;  ///< 0: gradients are not clipped
    std::int64_t seed = 0;
    DType dtype{};
    std::optional<DType> gradient_dtype;         ///< none: auto; see gradient_dtype_of
    std::optional<DType> gradient_reduce_dtype;  ///< none: auto; see gradient_reduce_dtype_of
    std::optional<std::int64_t> threads;         ///< per rank; none: auto
    MatmulLibrary matmul{};
    bool deterministic = false;
    std::optional<double> time_limit;  ///< minutes since the start; none: no limit
    std::int64_t max_bad_steps = 0;    ///< in a row; 0: the first one ends the run
    double outlier_sigmas = 0;         ///< 0: only what is not finite is bad
    std::vector<std::string> frozen;   ///< patterns over parameter names; see is_frozen()
  } training;
  struct Optimizer {
    bool operator==(const Optimizer&) const = default;
    OptimizerKind name{};
    double lr = 0;
    std::array<double, 2> betas{};
    double eps = 0;
    double weight_decay = 0;
    std::optional<double> momentum;  ///< of sgd and muon; none: see momentum_of
    bool nesterov = false;
    std::optional<DType> state_dtype;               ///< none: the masters' own; see state_dtype_of
    std::vector<std::string> weight_decay_exclude;  ///< patterns over parameter names; see decays()
  } optimizer;
  struct LrScheduler {
    bool operator==(const LrScheduler&) const = default;
    std::int64_t warmup_steps = 0;
    DecayType decay_type{};
    std::optional<double> decay_ratio;
    double min_lr_factor = 0;
  } lr_scheduler;
  struct Parallelism {
    bool operator==(const Parallelism&) const = default;
    std::optional<std::int64_t> data, zero_stage;  ///< none: auto
    std::optional<SequenceSplit> sequence;         ///< none: auto
    std::optional<SequenceSplit> window_layers;    ///< of layers with a window; none: as sequence
    std::optional<TokenOrder> token_order;         ///< none: auto
    std::optional<std::int64_t> shard_group;       ///< ranks that zero_stage shards over; none: auto, all
    std::optional<KeepGathered> keep_gathered;     ///< none: auto
    std::int64_t bucket_size = 0;                  ///< bytes, unsharded; 0: no buckets
    OverlapMode overlap = OverlapMode::automatic;
  } parallelism;
  struct ActivationMemory {
    bool operator==(const ActivationMemory&) const = default;
    ActivationMode mode{};
    std::optional<double> budget;  ///< up to 1: share of what device.memory leaves; above: bytes; none: auto
    OffloadMode offload{};
  } activation_memory;
  struct Checkpoint {
    bool operator==(const Checkpoint&) const = default;
    std::int64_t interval = 0;       ///< in steps; 0: only at the end
    std::optional<double> minutes;   ///< between checkpoints, besides interval; none: steps alone decide
    std::int64_t keep_latest_k = 0;  ///< 0: all are kept
    bool asynchronous = false;       ///< written by a thread, from a copy, while training goes on
    std::int64_t max_failures = 0;   ///< saves in a row that the system may refuse before the run stops; at least 1
    ResumeMode resume{};
    std::int64_t verify_replicas = 0;  ///< in steps, besides every save; 0: only then
    std::int64_t verify_steps = 0;     ///< every so many steps one is computed twice; 0: none
  } checkpoint;
  struct Metrics {
    bool operator==(const Metrics&) const = default;
    std::int64_t log_freq = 0;
    bool tensorboard = false;  ///< also as TensorBoard's event files
  } metrics;
  struct Sample {
    bool operator==(const Sample&) const = default;
    std::vector<std::string> prompts;  ///< [] : nothing is sampled
    std::int64_t interval = 0;         ///< in steps; 0: only after the last step
    std::int64_t max_tokens = 0;
    double temperature = 0, top_p = 1;
    std::int64_t seed = 0;
  } sample;
  struct Export {
    bool operator==(const Export&) const = default;
    std::int64_t interval = 0;        ///< in steps; 0: only after the last step
    std::int64_t keep_latest_k = 0;   ///< of those while training; 0: all are kept
    std::optional<DType> dtype;       ///< none: the masters' own
    std::int64_t max_shard_size = 0;  ///< bytes; 0: one file
  } exports;
  struct Validation {
    bool operator==(const Validation&) const = default;
    std::int64_t freq = 0;      ///< in steps; 0: only after the last step
    std::int64_t steps = 0;     ///< global batches per validation set; 0: the whole of it
    std::vector<DataSet> sets;  ///< besides data.validation_files
    bool at_start = false;      ///< one before the first step
  } validation;
  struct Distributed {
    bool operator==(const Distributed&) const = default;
    double timeout = 0;           ///< seconds without progress after which the job ends; 0: never
    bool different_cpus = false;  ///< ranks may run on CPUs of different kinds
  } distributed;
  struct Device {
    bool operator==(const Device&) const = default;
    DeviceType type{};
    DataPlaneKind collectives{};
    double timeout = 0;                 ///< seconds for a collective that every rank waits for; 0: for ever
    bool graphs = false;                ///< programs are launched as wholes
    std::optional<double> memory;       ///< GiB that a rank may plan; none: auto
    std::optional<double> host_memory;  ///< GiB of its host's that it may plan besides; none: auto
    std::filesystem::path profile;      ///< what the machine does in a second (src/cost/profile.h); empty: unknown
  } device;

  bool operator==(const Experiment&) const = default;
};

/// Reads a YAML (.yaml, .yml) or JSON (.json) experiment file, applies `overrides` in order ("section.key=value" or
/// "--section.key=value", and "section.key.name=value" for one name of a mapping; values parse as YAML; a later one
/// wins), resolves relative paths (the file's own against its folder, those of overrides against the current folder)
/// and checks the whole. Throws Error, naming file, line, key, value and what is allowed, on any unknown or duplicate
/// key, wrong type or impossible combination.
Experiment load_experiment(const std::filesystem::path& file, const std::vector<std::string>& overrides = {});

/// The same from text; `origin` is the file that the text stands for (its ending chooses YAML or JSON, its folder is
/// what relative paths resolve against) and need not exist.
Experiment parse_experiment(const std::string& text, const std::filesystem::path& origin,
                            const std::vector<std::string>& overrides = {});

/// Throws Error when keys contradict one another or lie outside their limits. load_experiment has called it; call it
/// again after changing an experiment in code.
void check_experiment(const Experiment& experiment);

/// Throws Error when there are neither data.files nor data.sources; for commands that read data.
void require_data_files(const Experiment& experiment);

/// Whether there is something to validate on.
bool validates(const Experiment& experiment);

/// The resolved experiment as YAML with every key; parse_experiment of it gives the same experiment again.
std::string to_yaml(const Experiment& experiment);

/// One key's value as its YAML text, for example value_of(experiment, "training.steps") == "1000". Throws Error for a
/// name that is no key.
std::string value_of(const Experiment& experiment, const std::string& key);

/// Every key, "section.name", in the order of the documentation.
std::vector<std::string> key_names();
/// Every key that is no path, nor a list of paths, with its value as YAML text, in the order of the documentation.
std::vector<std::pair<std::string, std::string>> values_without_paths(const Experiment& experiment);

/// The JSON Schema (draft 7) of experiment files, as configs/experiment.schema.json holds it.
std::string experiment_schema();

/// The tables of docs/experiment.md: every key with its type, default, limits and meaning, in Markdown.
std::string experiment_reference();

/// The dtype in which gradients are accumulated over micro-batches: the key's, or for `auto` float32 (float64 when
/// training.dtype is float64).
DType gradient_dtype_of(const Experiment& experiment);
/// The dtype in which gradients travel between ranks: the key's, or for `auto` gradient_dtype_of.
DType gradient_reduce_dtype_of(const Experiment& experiment);
/// What sgd and muon keep of their sum of gradients each step: the key's, or for `auto` 0.95 of muon and 0 of others.
double momentum_of(const Experiment& experiment);
/// The dtype of the optimizer's moments: the key's, or for `auto` float32 (float64 when training.dtype is float64).
DType state_dtype_of(const Experiment& experiment);

/// Whether weight decay applies to a parameter: false when its name matches a pattern of
/// optimizer.weight_decay_exclude.
bool decays(const Experiment& experiment, const std::string& parameter);

/// Whether a parameter is not trained: its name matches a pattern of training.frozen.
bool is_frozen(const Experiment& experiment, const std::string& parameter);

/// True when `pattern` matches the whole of `name`; '*' stands for any characters, '?' for one.
bool matches_pattern(std::string_view pattern, std::string_view name);

}  // namespace longhaul
