#include "config/experiment_keys.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "config/key_access.h"

namespace longhaul::config {
namespace {

template <auto Split, auto Member>
MapEntry split_entry(std::string_view name) {
  return {name, [](const Experiment& e) { return (e.parallelism.*Split).value_or(SequenceSplit{}).*Member; },
          [](Experiment& e, std::int64_t value) {
            auto& split = e.parallelism.*Split;
            if (!split) split.emplace();
            (*split).*Member = value;
          },
          1};
}

/// parallelism.sequence, parallelism.window_layers: how many ranks of each strategy.
template <auto Split>
MapAccess sequence_split(std::string_view example) {
  return {{split_entry<Split, &SequenceSplit::ulysses>("ulysses"), split_entry<Split, &SequenceSplit::ring>("ring"),
           split_entry<Split, &SequenceSplit::gather_kv>("gather_kv")},
          [](const Experiment& e) { return (e.parallelism.*Split).has_value(); },
          [](Experiment& e) { (e.parallelism.*Split).reset(); },
          "auto",
          "ulysses",
          example};
}

using E = Experiment;
const std::vector<std::string_view> dtypes = {"float64", "float32", "bfloat16"};  // in DType's order
const std::vector<std::string_view> moment_dtypes = {"float64", "float32", "bfloat16", "8bit"};

std::vector<Key> make_keys() {
  std::vector<Key> table = {
      {"job", "name", member<&E::job, &E::Job::name>, "", "A name for logs and the default run folder."},
      {"job", "folder", member<&E::job, &E::Job::folder>, "",
       "The run folder: resolved experiment, metrics, checkpoints and export."},

      {"model", "config", member<&E::model, &E::Model::config>, "",
       "The model: a spec (docs/spec.md) or Hugging Face `config.json` file, or a Hugging Face folder that holds one."},
      {"model", "weights", member<&E::model, &E::Model::weights>, "null",
       "Weights to start from: a folder or a safetensors file. null: random initialisation."},
      {"model", "init_seed", member<&E::model, &E::Model::init_seed>, "0",
       "Seed of the random initialisation, which is the same for any number of ranks.", at_least(0)},
      {"model", "rope", member<&E::model, &E::Model::rope>, "null",
       "Another RoPE, for longer contexts: fields of a spec's `rope` (docs/spec.md) by their names there, as {type: "
       "yarn, factor: 4}. It replaces that of the layers without a window and of all that have the same; theta and "
       "what "
       "turns of a head stay the model's unless given. original_max_positions not given: the model's; factor not "
       "given: "
       "max_position_embeddings over original_max_positions; longrope's attention_factor not given: as transformers "
       "computes it. Exports have it too. null: as the model says."},
      {"model",
       "max_position_embeddings",
       member<&E::model, &E::Model::max_position_embeddings>,
       "auto",
       "The length that the model is made for, as exports then say. auto: as the model says, or with rope of type "
       "linear, llama3 or yarn its factor x original_max_positions where that is more. Refused with learned positions.",
       {1, 2147483647, false}},
      {"model",
       "vocab_size",
       member<&E::model, &E::Model::vocab_size>,
       "auto",
       "Another size of the vocabulary: rows of embedding and head that model.weights has not begin as the mean of "
       "those that it has; rows beyond it are left out. auto: as the model says.",
       {1, 2147483647, false}},
  };
  const std::vector<Key> data = data_keys();
  table.insert(table.end(), data.begin(), data.end());
  const std::vector<Key> training = {
      {"training",
       "seq_len",
       member<&E::training, &E::Training::seq_len>,
       "1024",
       "Tokens per sequence (S), of the whole sequence before it is split over ranks.",
       {1, 2147483647, false}},
      {"training",
       "micro_batch_size",
       member<&E::training, &E::Training::micro_batch_size>,
       "1",
       "Sequences per data-parallel rank per micro-batch (ranks that share a sequence count as one).",
       {1, 1 << 24, false}},
      {"training",
       "global_batch_size",
       member<&E::training, &E::Training::global_batch_size>,
       "auto",
       "Sequences per optimizer step; a multiple of micro_batch_size x parallelism.data, the quotient being the number "
       "of "
       "micro-batches whose gradients are accumulated. auto: micro_batch_size x parallelism.data (no accumulation).",
       {1, 1 << 24, false}},
      {"training", "steps", member<&E::training, &E::Training::steps>, "1000", "Optimizer steps of the whole run.",
       count_from(1)},
      {"training", "max_norm", member<&E::training, &E::Training::max_norm>, "1.0",
       "Gradients are scaled down to this global norm when theirs is larger; 0: never.", at_least(0)},
      {"training", "seed", member<&E::training, &E::Training::seed>, "0", "Seed of the data order.", at_least(0)},
      {"training",
       "dtype",
       choice<&E::training, &E::Training::dtype>(),
       "float32",
       "Storage of activations and of the weights that compute uses; master weights and optimizer state are float32, "
       "or "
       "float64 for a float64 (reference) run.",
       {},
       dtypes},
      {"training",
       "gradient_dtype",
       optional_choice<&E::training, &E::Training::gradient_dtype>(),
       "auto",
       "In which gradients are accumulated over micro-batches. auto: float32, or float64 when dtype is float64.",
       {},
       dtypes},
      {"training",
       "gradient_reduce_dtype",
       optional_choice<&E::training, &E::Training::gradient_reduce_dtype>(),
       "auto",
       "In which gradients travel between ranks. auto: gradient_dtype.",
       {},
       dtypes},
      {"training",
       "threads",
       member<&E::training, &E::Training::threads>,
       "auto",
       "CPU threads per rank. auto: the cores that this machine's ranks may use, divided among them, at least 1.",
       {1, 4096, false}},
      {"training",
       "matmul",
       choice<&E::training, &E::Training::matmul>(),
       "auto",
       "The library of matrix products on a CPU. auto: with deterministic the first that takes a product (oneDNN; "
       "OpenBLAS "
       "in float64); without, the faster for each shape in float32, timed when the run is set up. Kept in matmul.json "
       "of "
       "the run folder and in checkpoints: a resumed run uses the same. On devices auto alone, and the algorithms that "
       "their library has chosen are kept so.",
       {},
       {"auto", "onednn", "openblas"}},
      {"training", "deterministic", member<&E::training, &E::Training::deterministic>, "true",
       "true: only kernels whose results do not depend on timing, so that the same command twice gives the same bits. "
       "CPU kernels always are, their choice only with true: see matmul."},
      {"training", "time_limit", member<&E::training, &E::Training::time_limit>, "null",
       "Minutes after the start of the program at which the run stops after its step: it saves, exports nothing and "
       "exits with 85; the same command goes on from there. Leave the last save its time. null: no limit.",
       at_least(0)},
      {"training", "max_bad_steps", member<&E::training, &E::Training::max_bad_steps>, "0",
       "A step is bad when its loss or gradient norm is not finite, or an outlier. 0: the first step that is not "
       "finite "
       "ends the run. n: a bad step is skipped, its data taken, parameters and moments untouched, and counted in "
       "metrics "
       "and log; n in a row end the run.",
       count_from(0)},
      {"training", "outlier_sigmas", member<&E::training, &E::Training::outlier_sigmas>, "6.0",
       "With max_bad_steps: a loss or gradient norm is an outlier when it lies so many standard deviations above the "
       "mean "
       "of the last 128 good steps (once there are 128). 0: none is.",
       at_least(0)},
      {"training", "frozen", member<&E::training, &E::Training::frozen>, "[]",
       "Patterns over parameter names (docs/spec.md lists them; `*`: any characters, `?`: one): parameters that match "
       "are not trained: no gradient, no optimizer state, no messages for either. Each pattern must match one. A run "
       "resumes with those that it had."},

      {"optimizer",
       "name",
       choice<&E::optimizer, &E::Optimizer::name>(),
       "adamw",
       "adamw: Adam with decoupled weight decay, as PyTorch's AdamW. sgd: gradients with momentum, as PyTorch's SGD "
       "(without dampening). muon: of the matrices of layers a moment of the gradient made orthogonal by Newton-Schulz "
       "iterations, as PyTorch's Muon with steps as large as AdamW's (match_rms_adamw), so that lr and weight_decay "
       "hold "
       "for both; everything else by adamw.",
       {},
       {"adamw", "sgd", "muon"}},
      {"optimizer", "lr", member<&E::optimizer, &E::Optimizer::lr>, "3e-4", "The highest learning rate.", at_least(0)},
      {"optimizer",
       "betas",
       member<&E::optimizer, &E::Optimizer::betas>,
       "[0.9, 0.95]",
       "Decay rates of the first and second moment.",
       {0, 1, true}},
      {"optimizer", "eps", member<&E::optimizer, &E::Optimizer::eps>, "1e-8", "Added to the root of the second moment.",
       at_least(0)},
      {"optimizer",
       "momentum",
       member<&E::optimizer, &E::Optimizer::momentum>,
       "auto",
       "Of sgd and muon: the sum of gradients of which so much is kept each step is what parameters follow. 0: there "
       "is "
       "none, nor memory for it (sgd). auto: 0.95 of muon, 0 of sgd.",
       {0, 1, true}},
      {"optimizer", "nesterov", member<&E::optimizer, &E::Optimizer::nesterov>, "false",
       "Of sgd and muon: true: parameters follow the gradient and momentum times the new sum."},
      {"optimizer",
       "state_dtype",
       optional_choice<&E::optimizer, &E::Optimizer::state_dtype>(),
       "auto",
       "In which moments are stored between steps; a step computes in float32 and rounds what it keeps. auto: float32, "
       "or "
       "float64 when training.dtype is float64. bfloat16 halves the memory; with betas[1] above about 0.996 its second "
       "moment then stops following gradients that grow slowly, since each step changes it by less than its last "
       "digit. 8bit (adamw): a byte an element and a float32 scale for each 256 of them, in the dynamic map of arXiv "
       "2110.02861; parameters of less than 4096 elements keep float32.",
       {},
       moment_dtypes},
      {"optimizer", "weight_decay", member<&E::optimizer, &E::Optimizer::weight_decay>, "0.1",
       "adamw: decoupled, each step multiplies weights by 1 - learning rate x weight_decay. sgd: added to the "
       "gradient, "
       "weight_decay x weight, as PyTorch does.",
       at_least(0)},
      {"optimizer", "weight_decay_exclude", member<&E::optimizer, &E::Optimizer::weight_decay_exclude>,
       "[\"*norm.weight\", \"*.bias\"]",
       "Patterns over parameter names (docs/spec.md lists them; `*`: any characters, `?`: one): parameters that match "
       "are "
       "not decayed. []: all are, as PyTorch does by default."},

      {"lr_scheduler", "warmup_steps", member<&E::lr_scheduler, &E::LrScheduler::warmup_steps>, "0",
       "Steps over which the learning rate rises linearly to lr. More than training.steps: the run ends while it "
       "rises.",
       count_from(0)},
      {"lr_scheduler",
       "decay_type",
       choice<&E::lr_scheduler, &E::LrScheduler::decay_type>(),
       "cosine",
       "After the warm-up. linear, cosine: fall to lr x min_lr_factor; constant: stay; wsd (warm-up, stable, decay): "
       "stay, "
       "then fall linearly over the last decay_ratio of the steps. As in torchtitan, the lowest rate would be reached "
       "one "
       "step after the last.",
       {},
       {"linear", "cosine", "constant", "wsd"}},
      {"lr_scheduler",
       "decay_ratio",
       member<&E::lr_scheduler, &E::LrScheduler::decay_ratio>,
       "null",
       "The part of training.steps, at the end, over which the rate falls. wsd needs it. null: all steps after the "
       "warm-up.",
       {0, 1, false}},
      {"lr_scheduler",
       "min_lr_factor",
       member<&E::lr_scheduler, &E::LrScheduler::min_lr_factor>,
       "0.0",
       "The lowest learning rate as a factor of lr.",
       {0, 1, false}},

      {"parallelism",
       "data",
       member<&E::parallelism, &E::Parallelism::data>,
       "auto",
       "Groups of ranks that each train on sequences of their own. auto: ranks / parallelism.sequence, and 1 when that "
       "is auto too.",
       {1, 1e6, false}},
      {"parallelism",
       "sequence",
       sequence_split<&E::Parallelism::sequence>("{ulysses: 2, ring: 2}"),
       "auto",
       "Ranks that each sequence is split over, and how (docs/parallelism.md): the product of the numbers given. A "
       "plain "
       "n is {ulysses: n}; ring and gather_kv exclude each other. auto, for ranks / data ranks: ulysses is the largest "
       "divisor of them that divides the query heads of every layer (without a window, when window_layers is given) "
       "and "
       "keeps its ranks on one host; ring is the rest.",
       {1, 1e6, false}},
      {"parallelism",
       "window_layers",
       sequence_split<&E::Parallelism::window_layers>("{gather_kv: 4}"),
       "auto",
       "How layers with a window are split, over the same ranks as parallelism.sequence: written alike, ulysses being "
       "1, "
       "that of sequence, or all ranks; query heads of these layers need not divide by sequence's ulysses then. Ring "
       "and "
       "gather_kv move only the rows that the window reaches. auto: as the other layers.",
       {1, 1e6, false}},
      {"parallelism",
       "token_order",
       optional_choice<&E::parallelism, &E::Parallelism::token_order>(),
       "auto",
       "Which tokens of a sequence a rank holds. contiguous: one piece; zigzag: two, one from either end, so that "
       "causal attention costs every ring or gather_kv rank the same; balanced: eight chunks, dealt out anew for every "
       "sequence, so that the attention of its documents costs every ring or gather_kv rank the same (never "
       "longer than in the other two; layers with a window then move all blocks). auto: with ring or gather_kv, "
       "balanced "
       "for data.packing when no layer has a window, else zigzag when some layer has none, else contiguous. Without "
       "ring and gather_kv ranks all are the same.",
       {},
       {"contiguous", "zigzag", "balanced"}},
      {"parallelism",
       "zero_stage",
       member<&E::parallelism, &E::Parallelism::zero_stage>,
       "auto",
       "What is sharded over all ranks. 0: nothing; 1: optimizer state; 2: gradients too; 3: parameters too. auto: 1.",
       {0, 3, false}},
      {"parallelism",
       "shard_group",
       member<&E::parallelism, &E::Parallelism::shard_group>,
       "auto",
       "Neighbouring ranks over which zero_stage shards; groups of so many hold copies (hybrid sharding). Parameters "
       "are "
       "gathered inside a group, gradients reduced inside it and then, once a step, across groups. A divisor of the "
       "ranks whose groups are whole pieces of the mesh: docs/parallelism.md. auto: all ranks.",
       {1, 1e6, false}},
      {"parallelism",
       "keep_gathered",
       optional_choice<&E::parallelism, &E::Parallelism::keep_gathered>(),
       "auto",
       "How long a parameter that zero_stage 3 shards stays whole once it is gathered. never: only while its layer "
       "runs, "
       "and it is gathered again for backward; backward: until the layer's backward pass; step: gathered once a step, "
       "for all its micro-batches. auto: step when a step has several micro-batches and the memory that this takes is "
       "within device.memory, else never.",
       {},
       {"never", "backward", "step"}},
      {"parallelism",
       "bucket_size",
       member<&E::parallelism, &E::Parallelism::bucket_size>,
       "4194304",
       "Bytes of gradients or parameters, counted unsharded, that are reduced or gathered in one message; a larger "
       "tensor travels alone. A bucket's tensors live until it is full and are copied once on either side: larger "
       "buckets save messages and cost memory. 0: each tensor travels alone.",
       {0, 1e15, false}},
      {"parallelism",
       "overlap",
       choice<&E::parallelism, &E::Parallelism::overlap>(),
       "auto",
       "Whether collectives run while a rank computes, as far as device.memory and activation_memory.budget have room "
       "for what is under way; results are the same bits. off: they take turns. on: wherever something is left to "
       "compute meanwhile. auto: on, but off where device.profile predicts that a step gains less than 1 %, and on a "
       "device, where it was not measured; there collectives that are staged are carried out in the program's order.",
       {},
       {"auto", "off", "on"}},

      {"activation_memory",
       "mode",
       choice<&E::activation_memory, &E::ActivationMemory::mode>(),
       "auto",
       "What the backward pass finds kept of the forward pass; results are the same bits. keep: all that it reads; "
       "recompute: what passes between layers, and attention's output and statistics; the rest of a layer is made "
       "again from them, and MLPs work through their rows in tiles. auto: all but what costs no more than 2 % of its "
       "layer's time to make again, such as norms and "
       "activations.",
       {},
       {"auto", "keep", "recompute"}},
      {"activation_memory",
       "budget",
       member<&E::activation_memory, &E::ActivationMemory::budget>,
       "auto",
       "What a rank may take for activations: everything but parameters, gradients, optimizer state and data. Above 1: "
       "bytes; up to 1: that share of what device.memory leaves for it. Mode auto then makes as little again as fits, "
       "cheapest first (MLPs in tiles before all), the same value in early layers before late ones; what cannot fit is "
       "refused. auto: all that "
       "device.memory leaves, and no limit without it.",
       {1e-6, 1e18, false}},
      {"activation_memory",
       "offload",
       choice<&E::activation_memory, &E::ActivationMemory::offload>(),
       "auto",
       "Whether what is kept for the backward pass waits for it in host memory, where its copies fit behind the work "
       "of "
       "the layers between; results are the same bits. on: under a budget, before anything is made again, what the "
       "backward pass needs last first; without one, all of it. auto: on a device, under a budget that would be "
       "refused "
       "otherwise; never on a CPU, whose device and host memory are one (there `on` shows what a device would do). "
       "Counts against device.host_memory.",
       {},
       {"auto", "off", "on"}},
  };
  table.insert(table.end(), training.begin(), training.end());
  const std::vector<Key> running = running_keys();
  table.insert(table.end(), running.begin(), running.end());
  for (Key& key : table) {
    if (std::holds_alternative<Access<std::optional<std::int64_t>>>(key.field)) key.automatic = true;
    // A choice that lists auto has it as a value of its own.
    if (key.fallback == "auto" && !std::holds_alternative<MapAccess>(key.field) &&
        std::find(key.choices.begin(), key.choices.end(), "auto") == key.choices.end())
      key.automatic = true;
    if (key.fallback == "null") key.nullable = true;
    const std::string name = key.full_name();
    if (name == "job.name") key.computed_default = "the experiment file's name without its ending";
    if (name == "job.folder") key.computed_default = "`runs/<job.name>`, beside the experiment file";
    if (name == "model.config") key.computed_default = "none: must be given";
  }
  return table;
}

std::string number_text(double value) {
  return std::floor(value) == value ? fmt::format("{:.0f}", value) : fmt::format("{}", value);
}

template <typename T>
constexpr bool holds(const Key& key) {
  return std::holds_alternative<Access<T>>(key.field);
}

}  // namespace

const std::vector<Section>& sections() {
  static const std::vector<Section> table = {
      {"job", "What the run is called and where it writes."},
      {"model", "What is trained."},
      {"data", "What it is trained on."},
      {"training", "How much, how long and in which precision."},
      {"optimizer", "How parameters are updated."},
      {"lr_scheduler", "How the learning rate moves."},
      {"parallelism", "How the work is split over ranks."},
      {"activation_memory", "What is kept between forward and backward pass."},
      {"checkpoint", "What is saved and resumed."},
      {"metrics", "What is logged."},
      {"sample", "Texts that the model goes on with while it is trained."},
      {"export", "Model folders that transformers loads."},
      {"validation", "When the model is tried on data it does not train on."},
      {"distributed", "How ranks watch over one another."},
      {"device", "What it runs on."},
  };
  return table;
}

const std::vector<Key>& keys() {
  static const std::vector<Key> table = make_keys();
  return table;
}

const Key* find_key(std::string_view section, std::string_view name) {
  for (const Key& key : keys())
    if (key.section == section && key.name == name) return &key;
  return nullptr;
}

std::string type_name(const Key& key) {
  if (holds<bool>(key) || holds<std::optional<bool>>(key)) return "boolean";
  if (holds<std::vector<DataSet>>(key)) return "data sets";
  if (holds<std::optional<RopeOverride>>(key)) return "mapping";
  if (holds<std::int64_t>(key) || holds<std::optional<std::int64_t>>(key)) return "integer";
  if (holds<double>(key) || holds<std::optional<double>>(key)) return "number";
  if (holds<std::array<double, 2>>(key)) return "two numbers";
  if (holds<std::string>(key)) return "text";
  if (holds<std::filesystem::path>(key)) return "path";
  if (holds<std::vector<std::string>>(key)) return "list of texts";
  if (holds<std::vector<std::filesystem::path>>(key)) return "list of paths";
  if (std::holds_alternative<MapAccess>(key.field)) return "mapping";
  return "choice";
}

std::string allowed(const Key& key) {
  std::string text;
  if (const auto* map = std::get_if<MapAccess>(&key.field)) {
    for (const MapEntry& entry : map->entries)
      text += (text.empty() ? "" : ", ") + std::string(entry.name) +
              (entry.choices.empty() ? "" : fmt::format(" ({})", fmt::join(entry.choices, ", ")));
    const std::string number = fmt::format("an integer from {:.0f} to {:.0f}", key.limits.minimum, key.limits.maximum);
    return map->plain.empty() ? fmt::format("a mapping of {}, as {}, or {}", text, map->example, map->unset)
                              : fmt::format("{}, a mapping of some of {} to such, as {}, or {}", number, text,
                                            map->example, map->unset);
  }
  if (holds<std::vector<DataSet>>(key))
    return fmt::format("a mapping of names to files or to mappings of {}, as {{books: {{files: books.txt}}}}",
                       fmt::join(key.choices, ", "));
  if (holds<std::optional<RopeOverride>>(key)) {
    for (const RopeField& field : rope_fields()) text += fmt::format(", {}", field.name);
    return fmt::format("a mapping of type ({}) and some of {}, as {{type: yarn, factor: 4}}, or null",
                       fmt::join(rope_types(), ", "), text.substr(2));
  }
  if (std::holds_alternative<ChoiceAccess>(key.field)) {
    for (std::string_view choice : key.choices) text += (text.empty() ? "" : ", ") + std::string(choice);
    if (key.choices.size() > 1) text = "one of " + text;
  } else {
    const std::string type = type_name(key);
    text = type == "integer"                        ? "an integer"
           : type == "number"                       ? "a number"
           : type == "boolean"                      ? "true or false"
           : type == "text"                         ? "a text"
           : type == "path" && !key.choices.empty() ? fmt::format("{} or a path", fmt::join(key.choices, ", "))
           : type == "path"                         ? "a path"
           : type == "list of texts"                ? "a list of texts, as [a, b]"
           : type == "list of paths"                ? "a path or a list of paths, as [a, b]"
                                                    : "two numbers, as [a, b], each";
    const bool numeric = type == "integer" || type == "number" || type == "two numbers";
    if (numeric && key.limits.maximum < unbounded)
      text += key.limits.below_maximum
                  ? fmt::format(" in [{}, {})", number_text(key.limits.minimum), number_text(key.limits.maximum))
                  : fmt::format(" from {} to {}", number_text(key.limits.minimum), number_text(key.limits.maximum));
    else if (numeric && key.limits.minimum > -unbounded)
      text += fmt::format(" of at least {}", number_text(key.limits.minimum));
  }
  if (key.automatic) text += ", or auto";
  if (key.nullable) text += ", or null";
  return text;
}

}  // namespace longhaul::config
