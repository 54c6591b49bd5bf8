#include "run/model_overrides.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "config/experiment.h"
#include "model/parameters.h"
#include "model/rope.h"

namespace longhaul {
namespace {

using nlohmann::json;

// The RoPE that longer contexts need another of: that of the first layer that sees all tokens, or of the first.
const RopeSpec* global_rope(const TransformerSpec& spec) {
  const RopeSpec* first = nullptr;
  for (const LayerSpec* layer : spec.each_layer()) {
    if (layer->rope.kind == RopeKind::none) continue;
    if (layer->attention.window == 0) return &layer->rope;
    if (!first) first = &layer->rope;
  }
  return first;
}

double number_of(const RopeOverride& given, std::string_view name, double fallback) {
  for (const auto& [known, value] : given.numbers)
    if (known == name) return value;
  return fallback;
}
bool has(const RopeOverride& given, std::string_view name) {
  return std::any_of(given.numbers.begin(), given.numbers.end(), [&](const auto& one) { return one.first == name; });
}

json rope_json(const RopeOverride& given, const RopeSpec& before, const TransformerSpec& spec, std::int64_t positions) {
  const bool stretched = given.type == "llama3" || given.type == "yarn" || given.type == "dynamic",
             by_length = given.type == "longrope";
  json rope{{"type", given.type}, {"theta", before.theta}, {"rotary_dim", before.rotary_dim}};
  for (const auto& [name, value] : given.numbers)
    rope[name] = value == std::floor(value) && value < 1e15 ? json(static_cast<std::int64_t>(value)) : json(value);
  for (const auto& [name, values] : given.lists) rope[name] = values;
  if (given.truncate) rope["truncate"] = *given.truncate;
  std::int64_t original = before.original_max_positions > 0 ? before.original_max_positions : spec.max_positions;
  if (given.type == "dynamic" && positions > 0) original = positions;  // transformers counts from there
  if (stretched || by_length) {
    if (!rope.contains("original_max_positions") && original > 0) rope["original_max_positions"] = original;
    original = rope.value("original_max_positions", std::int64_t{0});
  }
  const double ratio = original > 0 ? static_cast<double>(positions) / static_cast<double>(original) : 0;
  if ((stretched || given.type == "linear") && given.type != "dynamic" && !rope.contains("factor") && ratio > 1)
    rope["factor"] = ratio;
  if (by_length && !rope.contains("attention_factor") && original > 1) {
    const double longest =
        positions > 0 ? ratio : static_cast<double>(spec.max_positions) / static_cast<double>(original);
    rope["attention_factor"] = longrope_attention_factor(longest, original);
  }
  return rope;
}

// Every layer whose RoPE is the model's global one gets another; the spec's own reader checks what came of it.
void replace_rope(LoadedModel& model, const Experiment::Model& keys) {
  const RopeOverride& given = *keys.rope;
  const RopeSpec* global = global_rope(model.spec);
  if (!global)
    fail("model.rope is of type {}, but no layer of {} has RoPE: remove it", given.type, model.file.string());
  const RopeSpec before = *global;
  const json rope = rope_json(given, before, model.spec, keys.max_position_embeddings.value_or(0));
  json spec = spec_to_json(model.spec);
  std::int64_t replaced = 0, all = 0;
  for (std::size_t i = 0; i < model.spec.layers.size(); ++i) {
    const LayerGroup& group = model.spec.layers[i];
    all += group.repeat;
    if (group.layer.rope != before) continue;
    spec["layers"][i]["rope"] = rope;
    replaced += group.repeat;
  }
  model.spec = spec_from_json(spec, fmt::format("model.rope with {}", model.file.string()));
  merge_equal_groups(model.spec);
  model.notes.push_back(fmt::format("model.rope: {} of {} layers have RoPE {}", replaced, all, rope.dump()));
}

void replace_positions(LoadedModel& model, const Experiment::Model& keys) {
  TransformerSpec& spec = model.spec;
  std::int64_t wanted = keys.max_position_embeddings.value_or(spec.max_positions);
  if (keys.max_position_embeddings && spec.learned_positions && wanted != spec.max_positions)
    fail("model.max_position_embeddings is {}, but {} has a table of {} learned positions: leave it auto", wanted,
         model.file.string(), spec.max_positions);
  if (!keys.max_position_embeddings && keys.rope) {
    const std::string& type = keys.rope->type;
    const RopeSpec& rope = *global_rope(spec);
    const std::int64_t original = type == "linear" ? model.stored.max_positions : rope.original_max_positions;
    if ((type == "linear" || type == "llama3" || type == "yarn") && has(*keys.rope, "factor"))
      wanted = std::max(wanted, static_cast<std::int64_t>(
                                    std::llround(number_of(*keys.rope, "factor", 1) * static_cast<double>(original))));
  }
  if (wanted == spec.max_positions) return;
  model.notes.push_back(fmt::format("the model is made for {} positions ({}) instead of {}", wanted,
                                    keys.max_position_embeddings ? "model.max_position_embeddings" : "model.rope",
                                    spec.max_positions));
  spec.max_positions = wanted;
}

bool has_words(const std::string& parameter) {
  return parameter == "embedding.tokens" || parameter == "head.weight" || parameter == "head.bias";
}

// The means of the rows of each parameter, made when they are first asked for.
struct Means {
  std::mutex mutex;
  std::map<std::string, std::vector<double>> known;
};

std::vector<double> mean_row(const ParameterSource& source, const std::string& name, std::int64_t rows,
                             std::int64_t row) {
  std::vector<double> sum(static_cast<std::size_t>(row), 0.0), piece;
  const std::int64_t at_once = std::max<std::int64_t>(1, (1 << 19) / row);
  for (std::int64_t begin = 0; begin < rows; begin += at_once) {
    const std::int64_t end = std::min(rows, begin + at_once);
    piece.resize(static_cast<std::size_t>((end - begin) * row));
    source(name, begin * row, end * row, DType::float64, piece.data());
    for (std::size_t i = 0; i < piece.size(); ++i) sum[i % static_cast<std::size_t>(row)] += piece[i];
  }
  for (double& one : sum) one /= static_cast<double>(rows);
  return sum;
}

}  // namespace

LoadedModel experiment_model(const Experiment& experiment) {
  const Experiment::Model& keys = experiment.model;
  LoadedModel model = load_model(keys.config);
  if (keys.rope) replace_rope(model, keys);
  replace_positions(model, keys);
  if (keys.vocab_size && *keys.vocab_size != model.spec.vocabulary) {
    model.notes.push_back(fmt::format(
        "model.vocab_size: the vocabulary has {} words instead of {}{}", *keys.vocab_size, model.spec.vocabulary,
        keys.weights.empty()                       ? ""
        : *keys.vocab_size > model.spec.vocabulary ? "; the new rows of model.weights are the mean of the others"
                                                   : "; rows of model.weights beyond it are left out"));
    model.spec.vocabulary = *keys.vocab_size;
  }
  if (model.spec != model.stored) check_spec(model.spec, "model.config with the experiment's overrides");
  return model;
}

ParameterSource resized_source(ParameterSource source, const TransformerSpec& stored, const TransformerSpec& wanted) {
  if (stored.vocabulary == wanted.vocabulary) return source;
  return [source = std::move(source), rows = stored.vocabulary, hidden = stored.hidden_size,
          means = std::make_shared<Means>()](const std::string& name, std::int64_t begin, std::int64_t end, DType dtype,
                                             void* target) {
    const std::int64_t row = name == "head.bias" ? 1 : hidden, there = rows * row;
    if (!has_words(name) || end <= there) return source(name, begin, end, dtype, target);
    const std::int64_t from_source = std::max<std::int64_t>(0, there - begin);
    if (from_source > 0) source(name, begin, there, dtype, target);
    const std::lock_guard lock(means->mutex);
    std::vector<double>& mean = means->known[name];
    if (mean.empty()) mean = mean_row(source, name, rows, row);
    for (std::int64_t i = from_source; i < end - begin; ++i) {
      const double value = mean[static_cast<std::size_t>((begin + i) % row)];
      if (dtype == DType::float64)
        static_cast<double*>(target)[i] = value;
      else
        static_cast<float*>(target)[i] = static_cast<float>(value);
    }
  };
}

}  // namespace longhaul
