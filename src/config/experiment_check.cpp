// What keys mean together: impossible combinations, and the dtypes that `auto` stands for.
#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "config/data_format.h"
#include "config/experiment_keys.h"

namespace longhaul {
namespace {

void check_data_sets(const config::Key& key, const std::vector<DataSet>& sets) {
  for (const DataSet& set : sets) {
    const std::string name = key.full_name() + "." + set.name;
    config::check_data_set_name(key, set.name, "experiment");
    if (set.files.empty()) fail("{} names no files; say {}: {{files: [...]}}", name, set.name);
    for (const config::Key& field : config::data_set_fields())
      if (!config::has_field(key, field) && !config::is_unset(set, field))
        fail("{} has no {}: {} may not say it", key.full_name(), field.name, name);
    if (!(set.weight >= 1e-6 && std::isfinite(set.weight)) || (set.epochs && !(*set.epochs >= 1e-6)))
      fail("{}: weight and epochs must be numbers of at least 1e-06; they are {} and {}", name, set.weight,
           set.epochs.value_or(1));
    if (set.format.empty()) continue;
    if ((set.mask_prompt.value_or(false) || set.train_on) && !data_format(set.format).prompts)
      fail("{} has mask_prompt or train_on, but its format is {}, which has no prompts and chats; they are for {}",
           name, set.format, name_data_formats(&DataFormat::prompts));
  }
}

}  // namespace

void check_experiment(const Experiment& e) {
  using config::print_value;
  // Limits of each key, for experiments that were made or changed in code.
  for (const config::Key& key : config::keys()) {
    const auto check = [&](double value) {
      const bool inside = value >= key.limits.minimum && value <= key.limits.maximum &&
                          !(key.limits.below_maximum && value == key.limits.maximum);
      if (!inside) fail("{} must be {}; it is {}", key.full_name(), config::allowed(key), print_value(e, key));
    };
    auto& mutable_experiment = const_cast<Experiment&>(e);  // the accessors only read here
    if (const auto* integer = std::get_if<config::Access<std::int64_t>>(&key.field))
      check(static_cast<double>((*integer)(mutable_experiment)));
    else if (const auto* number = std::get_if<config::Access<double>>(&key.field))
      check((*number)(mutable_experiment));
    else if (const auto* pair = std::get_if<config::Access<std::array<double, 2>>>(&key.field))
      for (double value : (*pair)(mutable_experiment)) check(value);
    else if (const auto* optional = std::get_if<config::Access<std::optional<std::int64_t>>>(&key.field)) {
      if (const auto& value = (*optional)(mutable_experiment)) check(static_cast<double>(*value));
    } else if (const auto* ratio = std::get_if<config::Access<std::optional<double>>>(&key.field)) {
      if (const auto& value = (*ratio)(mutable_experiment)) check(*value);
    } else if (const auto* sets = std::get_if<config::Access<std::vector<DataSet>>>(&key.field)) {
      check_data_sets(key, (*sets)(mutable_experiment));
    } else if (const auto* map = std::get_if<config::MapAccess>(&key.field)) {
      if (!map->is_set(e)) continue;
      for (const auto& entry : map->entries)
        if (entry.choices.empty()) check(static_cast<double>(entry.get(e)));
    }
  }

  if (e.model.config.empty())
    fail("model.config is missing: name a spec or config.json file, or a Hugging Face folder, under model:");
  if (e.job.name.find('/') != std::string::npos)
    fail("job.name is \"{}\"; it must hold no '/' (job.folder says where the run is written)", e.job.name);

  if (e.model.rope && e.model.rope->type.empty())
    fail("model.rope is {} without a type; say {{type: ...}}, one of {}", config::print_rope(*e.model.rope),
         fmt::join(config::rope_types(), ", "));
  for (const std::string& prompt : e.sample.prompts)
    if (prompt.empty()) fail("sample.prompts holds an empty text; there must be something to go on with");
  if (e.sample.temperature == 0 && e.sample.top_p < 1)
    fail(
        "sample.top_p is {}, but sample.temperature is 0, which always takes the likeliest token; set "
        "sample.temperature above 0 to draw, or leave out sample.top_p",
        value_of(e, "sample.top_p"));
  if (e.sample.prompts.empty() && e.sample.interval > 0)
    fail("sample.interval is {}, but sample.prompts is []: name texts to go on with", e.sample.interval);

  if (const auto global = e.training.global_batch_size) {
    const std::int64_t micro = e.training.micro_batch_size;
    if (*global % micro != 0)
      fail("training.global_batch_size is {}; it must be a multiple of training.micro_batch_size, which is {}", *global,
           micro);
    if (const auto data = e.parallelism.data; data && *global % (micro * *data) != 0)
      fail(
          "training.global_batch_size is {}; it must be a multiple of training.micro_batch_size x parallelism.data = "
          "{} "
          "x {} = {}",
          *global, micro, *data, micro * *data);
  }

  if (e.activation_memory.budget && e.activation_memory.mode != ActivationMode::automatic)
    fail(
        "activation_memory.budget is {} while activation_memory.mode is {}: only mode auto chooses by a budget; use it "
        "or leave the budget out",
        value_of(e, "activation_memory.budget"), value_of(e, "activation_memory.mode"));
  if (e.activation_memory.budget && *e.activation_memory.budget <= 1 && !e.device.memory && e.device.profile.empty())
    fail(
        "activation_memory.budget is {}, a share of what device.memory leaves for activations, and device.memory is "
        "auto; give device.memory in GiB, a device.profile, or the budget in bytes",
        value_of(e, "activation_memory.budget"));

  if (!e.data.sources.empty() && !e.data.files.empty())
    fail(
        "data.files and data.sources both say what is trained on; make the files a source, as data.sources: {{mine: "
        "{{files: {}}}}}, or leave one out",
        value_of(e, "data.files"));
  if (e.data.token_bytes) {
    bool used = data_format(e.data.format).headerless;
    for (const auto* sets : {&e.data.sources, &e.validation.sets})
      for (const DataSet& set : *sets) used |= !set.format.empty() && data_format(set.format).headerless;
    if (!used)
      fail("data.token_bytes is {}, but no data are of format {}, whose files do not say how wide an id is",
           *e.data.token_bytes, name_data_formats(&DataFormat::headerless));
    if (*e.data.token_bytes != 2 && *e.data.token_bytes != 4)
      fail("data.token_bytes is {}; it must be 2, 4 or auto", *e.data.token_bytes);
  }

  if (e.data.mask_prompt && !data_format(e.data.format).prompts)
    fail(
        "data.mask_prompt is true, but data.format is {}, which has no prompts; it is for {} (datatrove files say by "
        "their .loss what is learned)",
        e.data.format, name_data_formats(&DataFormat::prompts));

  for (const auto& [name, given] : {std::pair{"data.chat_format", e.data.chat_format != ChatFormatName::automatic},
                                    std::pair{"data.train_on", e.data.train_on != TrainOn::assistant}})
    if (given && !data_format(e.data.format).prompts)
      fail("{} is {}, but data.format is {}, which has no chats; it is for {}", name, value_of(e, name), e.data.format,
           name_data_formats(&DataFormat::prompts));

  if (!e.data.packing && e.data.long_documents != LongDocuments::split)
    fail("data.packing names long without mode; say {{mode: best_fit, long: ...}}");
  if (e.data.packing == PackingMode::documents && e.data.long_documents != LongDocuments::split)
    fail("data.packing is {}: long is for mode best_fit; mode documents splits what does not fit",
         value_of(e, "data.packing"));

  for (const auto& [name, split] : {std::pair{"parallelism.sequence", e.parallelism.sequence},
                                    std::pair{"parallelism.window_layers", e.parallelism.window_layers}})
    if (split && split->ring > 1 && split->gather_kv > 1)
      fail(
          "{} is {}: ring and gather_kv are two ways to bring the same keys to the queries; use one of them, with or "
          "without ulysses",
          name, value_of(e, name));

  for (const auto& [name, type] : {std::pair{"training.dtype", std::optional(e.training.dtype)},
                                   std::pair{"training.gradient_dtype", e.training.gradient_dtype},
                                   std::pair{"training.gradient_reduce_dtype", e.training.gradient_reduce_dtype},
                                   std::pair{"optimizer.state_dtype", e.optimizer.state_dtype}}) {
    if (type && !is_floating(*type) && type != DType::uint8)
      fail("{} is {}; it must be one of float64, float32, bfloat16", name, name_of(*type));
    // A float64 run is a reference run: everything in it is float64, and nothing else is.
    if (type && (*type == DType::float64) != (e.training.dtype == DType::float64))
      fail(
          "{} is {} while training.dtype is {}; float64 is for reference runs, in which all dtypes are float64 "
          "(or auto)",
          name, value_of(e, name), name_of(e.training.dtype));
  }

  const auto& optimizer = e.optimizer;
  if (optimizer.name == OptimizerKind::adamw && (optimizer.momentum || optimizer.nesterov))
    fail("optimizer.{} is {}, but optimizer.name is {}: it is for sgd and muon",
         optimizer.nesterov ? "nesterov" : "momentum",
         value_of(e, optimizer.nesterov ? "optimizer.nesterov" : "optimizer.momentum"), value_of(e, "optimizer.name"));
  if (optimizer.name == OptimizerKind::sgd) {
    const Experiment defaults;
    for (const auto& [name, changed] : {std::pair{"optimizer.betas", optimizer.betas != defaults.optimizer.betas},
                                        std::pair{"optimizer.eps", optimizer.eps != defaults.optimizer.eps}})
      if (changed)
        fail("{} is {}, but optimizer.name is sgd, which has none: it is for adamw and muon", name, value_of(e, name));
  }
  if (optimizer.nesterov && momentum_of(e) == 0)
    fail(
        "optimizer.nesterov is true, but optimizer.momentum is {}: there is nothing to look ahead with; set it, as 0.9",
        value_of(e, "optimizer.momentum"));
  if (optimizer.state_dtype == DType::uint8 && optimizer.name != OptimizerKind::adamw)
    fail(
        "optimizer.state_dtype is {}, but optimizer.name is {}: moments in 8 bits are those of adamw; take "
        "optimizer.name: adamw, or optimizer.state_dtype: bfloat16",
        value_of(e, "optimizer.state_dtype"), value_of(e, "optimizer.name"));
  if (e.device.graphs && e.device.type == DeviceType::cpu)
    fail(
        "device.graphs is true, but device.type is cpu, which launches nothing: take device.type cuda or emulator, or "
        "device.graphs false");
  if (e.device.collectives != DataPlaneKind::automatic && e.device.type == DeviceType::cpu)
    fail(
        "device.collectives is {}, but device.type is cpu, whose ranks send by their own transport: take device.type "
        "cuda or emulator, or device.collectives auto",
        value_of(e, "device.collectives"));
  if (optimizer.state_dtype == DType::uint8 && e.device.type != DeviceType::cpu)
    fail(
        "optimizer.state_dtype is {}, but device.type is {}: moments in 8 bits are computed on a CPU alone; take "
        "optimizer.state_dtype: bfloat16",
        value_of(e, "optimizer.state_dtype"), value_of(e, "device.type"));

  const auto decay = e.lr_scheduler.decay_type;
  if (decay == DecayType::wsd && !e.lr_scheduler.decay_ratio)
    fail(
        "lr_scheduler.decay_type is wsd, which needs lr_scheduler.decay_ratio: the part of the steps, from 0 to 1, "
        "over "
        "which the rate falls at the end");
  if (decay == DecayType::constant && e.lr_scheduler.decay_ratio)
    fail(
        "lr_scheduler.decay_ratio is {} while lr_scheduler.decay_type is constant, which does not decay; remove it or "
        "choose linear, cosine or wsd",
        *e.lr_scheduler.decay_ratio);
}

double momentum_of(const Experiment& e) {
  return e.optimizer.momentum.value_or(e.optimizer.name == OptimizerKind::muon ? 0.95 : 0);
}

DType state_dtype_of(const Experiment& e) {
  return e.optimizer.state_dtype.value_or(e.training.dtype == DType::float64 ? DType::float64 : DType::float32);
}

void require_data_files(const Experiment& e) {
  if (e.data.files.empty() && e.data.sources.empty())
    fail("data.files is empty; name at least one file to train on, as data.files: [a.txt], or data.sources");
}

bool validates(const Experiment& e) {
  return !e.data.validation_files.empty() || !e.validation.sets.empty();
}

DType gradient_dtype_of(const Experiment& e) {
  return e.training.gradient_dtype.value_or(e.training.dtype == DType::float64 ? DType::float64 : DType::float32);
}

DType gradient_reduce_dtype_of(const Experiment& e) {
  return e.training.gradient_reduce_dtype.value_or(gradient_dtype_of(e));
}

bool matches_pattern(std::string_view pattern, std::string_view name) {
  // Backtracks to the last '*' only, which is enough for patterns without alternatives.
  std::size_t p = 0, n = 0, star = std::string_view::npos, resume = 0;
  while (n < name.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      resume = n;
    } else if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == name[n])) {
      ++p;
      ++n;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      n = ++resume;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

bool is_frozen(const Experiment& e, const std::string& parameter) {
  const auto& patterns = e.training.frozen;
  return std::any_of(patterns.begin(), patterns.end(),
                     [&](const std::string& pattern) { return matches_pattern(pattern, parameter); });
}

bool decays(const Experiment& e, const std::string& parameter) {
  const auto& patterns = e.optimizer.weight_decay_exclude;
  return std::none_of(patterns.begin(), patterns.end(),
                      [&](const std::string& pattern) { return matches_pattern(pattern, parameter); });
}

}  // namespace longhaul
