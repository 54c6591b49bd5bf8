#include "train/evaluate.h"

#include <stdlib.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/log.h"
#include "comm/exchange.h"
#include "run/agreement.h"
#include "run/checkpointing.h"
#include "run/libraries.h"
#include "run/session.h"
#include "run/stored_model.h"
#include "run/text_tokens.h"
#include "run/watchdog.h"

namespace longhaul {
namespace {

namespace fs = std::filesystem;

// A folder of rank 0's, named on all ranks; what is in it goes with it.
class TemporaryFolder {
 public:
  explicit TemporaryFolder(Communicator& world) : removes_(world.rank() == 0) {
    std::string made;
    phase(world, [&] {
      if (!removes_) return;
      std::error_code none;
      made = (fs::temp_directory_path(none) / "longhaul-eval-XXXXXX").string();
      if (!::mkdtemp(made.data())) fail("no temporary folder can be made as {} (TMPDIR names another place)", made);
    });
    path_ = broadcast_text(world, made);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  ~TemporaryFolder() {
    std::error_code none;
    if (removes_) fs::remove_all(path_, none);
  }
  const fs::path& path() const { return path_; }

 private:
  const bool removes_;
  fs::path path_;
};

// The experiment with the model that --from names, and what its parameters are read from.
struct Evaluated {
  Experiment experiment;
  std::optional<TrainerState> state;  // of a run's checkpoint
  std::string checkpoint;
};

Evaluated evaluated_model(const Experiment& experiment, const EvaluationOptions& options) {
  Evaluated evaluated{experiment, std::nullopt, ""};
  Experiment::Model& model = evaluated.experiment.model;
  if (options.from.empty()) {
    if (options.step) fail("--step {} is of a run's checkpoint; name the run with --from", *options.step);
    if (model.weights.empty())
      fail(
          "model.weights is not set, so that random parameters would be evaluated; set model.weights to a folder or "
          "file, or name a run or a model folder with --from");
    return evaluated;
  }
  std::error_code none;
  if (!fs::is_directory(options.from / "checkpoints", none)) {
    if (options.step) fail("a step is of a run's checkpoints, but {} has no folder checkpoints", options.from.string());
    model.config = model.weights = fs::absolute(options.from).lexically_normal();
    return evaluated;
  }
  const Checkpoint checkpoint = open_run_checkpoint(options.from, options.step);
  evaluated.state = trainer_state(checkpoint);
  evaluated.checkpoint = checkpoint.path();
  // A run knows what its model was made from; when that is gone, the experiment's own must be the same.
  const Experiment run = parse_experiment(evaluated.state->experiment, options.from / "experiment.yaml");
  if (fs::exists(run.model.config, none)) model = run.model;
  model.weights.clear();
  return evaluated;
}

std::string context_text(const PositionLoss& bucket) {
  return bucket.first == 1 ? "1" : fmt::format("{} to {}", bucket.first, 2 * bucket.first - 1);
}

}  // namespace

EvaluationReport evaluate(Communicator& world, const Experiment& experiment, const EvaluationOptions& options) {
  Evaluated evaluated;
  phase(world, [&] {
    evaluated = evaluated_model(experiment, options);
    // Text that is not evaluated needs no tokens.
    Experiment::Data& data = evaluated.experiment.data;
    if (!options.training && validates(experiment)) {
      data.files.clear();
      data.sources.clear();
    }
    if (data_groups(evaluated.experiment).empty())
      fail("there is nothing to evaluate on: name data.validation_files, validation.sets, or data.files");
  });
  RunSetup setup = prepare_agreed_run(world, evaluated.experiment, Purpose::evaluate);
  for (const auto& decision : setup.decisions) log_info("{}", decision);
  if (!validates(experiment) && !options.training)
    log_info("there are no validation sets: the model is evaluated on the data that it is trained on");

  const TemporaryFolder temporary(world);
  setup.tokens_folder = options.tokens.empty() ? temporary.path() / "tokens" : options.tokens;
  Watchdog::Times times;
  times.timeout = experiment.distributed.timeout;
  Watchdog watchdog(world, temporary.path().string(), times);
  watchdog.phase("tokenizing text");
  tokenize_texts(world, setup);
  phase(world, [&] {
    for (const auto& [key, file] : setup.token_files)
      if (std::error_code none; !fs::exists(file, none))
        fail("{}: its tokens, {}, are not to be seen here; give --tokens a folder that all hosts share", key,
             file.string());
  });

  watchdog.phase("reading data");
  std::vector<DataSource> sources;
  phase(world, [&] {
    for (const DataGroup& group : data_groups(setup.experiment))
      sources.push_back(open_source(world, setup, group, false));
  });
  for (const DataSource& source : sources) report_source(world, setup, source.group.key, source);

  watchdog.phase("compiling");
  CompiledModel model;
  ParameterSource parameters;
  EvaluationReport report;
  phase(world, [&] {
    if (evaluated.state) {
      refuse_other_model(*evaluated.state, setup.model.spec, evaluated.checkpoint);
      const StoredModel stored = open_stored_model(options.from, evaluated.state->step);
      parameters = stored.source;
      report.step = stored.step;
    } else {
      parameters = first_parameters(setup);
    }
    report.model = evaluated.state ? evaluated.checkpoint : evaluated.experiment.model.weights.string();
    model = compile_model(setup.request);
  });
  check_files(world, setup);
  log_info("memory: {} bytes a rank", model.arena_bytes);
  watchdog.phase("choosing libraries");
  // Of a run's products as the run computes them, so that the losses are those that training says.
  const std::string kept = evaluated.state ? evaluated.state->libraries : "";
  if (const std::string libraries = choose_libraries(world, setup, model, kept, evaluated.checkpoint);
      !libraries.empty())
    log_info("{}", libraries);
  Session session(world, *setup.target, setup.request, model);
  watchdog.watch(session.executor().activity());
  watchdog.phase("reading parameters");
  phase(world, [&] { session.set_parameters(parameters); });
  log_info("parameters read from {}", report.model);
  watchdog.phase("evaluation");
  for (const DataSource& source : sources)
    report.sets.push_back({source.group.key, evaluate_source(session, setup, source)});
  return report;
}

std::string EvaluationReport::text() const {
  std::string text = fmt::format("model: {}{}\n", model, step >= 0 ? fmt::format(" (step {})", step) : "");
  text += fmt::format("{:32} {:>12} {:>12} {:>14}\n", "set", "labels", "loss", "perplexity");
  const auto row = [&](const std::string& name, double labels, double loss) {
    text += fmt::format("{:32} {:>12.0f} {:>12.6f} {:>14.6g}\n", name, labels, loss, std::exp(loss));
  };
  for (const EvaluatedSet& set : sets) {
    if (!set.result.loss) {
      text += fmt::format("{:32} {:>12} {:>12} {:>14}\n", set.key, 0, "-", "-");
      continue;
    }
    row(set.key, set.result.labels, *set.result.loss);
    for (const PositionLoss& bucket : set.result.by_position)
      row("  tokens of context " + context_text(bucket), bucket.labels, bucket.sum / bucket.labels);
  }
  return text;
}

std::string EvaluationReport::json() const {
  nlohmann::ordered_json json{{"model", model}};
  if (step >= 0) json["step"] = step;
  json["sets"] = nlohmann::ordered_json::array();
  for (const EvaluatedSet& set : sets) {
    nlohmann::ordered_json one{{"set", set.key}, {"labels", set.result.labels}};
    if (set.result.loss) {
      one["loss"] = *set.result.loss;
      one["perplexity"] = std::exp(*set.result.loss);
    }
    one["by_position"] = nlohmann::ordered_json::array();
    for (const PositionLoss& bucket : set.result.by_position)
      one["by_position"].push_back({bucket.first, bucket.sum / bucket.labels, bucket.labels});
    json["sets"].push_back(one);
  }
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

}  // namespace longhaul
