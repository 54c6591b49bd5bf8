#include "train/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>

#include "base/error.h"
#include "base/host.h"
#include "base/log.h"
#include "comm/exchange.h"
#include "config/schedule.h"
#include "data/loader.h"
#include "io/file.h"
#include "run/agreement.h"
#include "run/attention_balance.h"
#include "run/changed_keys.h"
#include "run/checkpoint_saver.h"
#include "run/checkpointing.h"
#include "run/libraries.h"
#include "run/repeated_step.h"
#include "run/replicas.h"
#include "run/run_flops.h"
#include "run/run_lock.h"
#include "run/run_record.h"
#include "run/session.h"
#include "run/setup.h"
#include "run/source.h"
#include "run/source_losses.h"
#include "run/text_tokens.h"
#include "run/watchdog.h"
#include "run/weights.h"
#include "train/bad_steps.h"
#include "train/metrics.h"
#include "train/run_control.h"
#include "train/run_folder.h"
#include "train/step_exports.h"
#include "train/text_samples.h"
#include "train/trainer_data.h"

namespace longhaul {
namespace {

namespace fs = std::filesystem;

class Trainer {
 public:
  Trainer(Communicator& world, const Experiment& experiment, std::chrono::steady_clock::time_point start,
          const TrainHooks& hooks)
      : world_(world),
        hooks_(hooks),
        control_(world, experiment, start, hooks.stop),
        bad_steps_(experiment),
        data_(world, setup_) {
    setup_ = prepare_agreed_run(world, experiment);
    folder_ = setup_.experiment.job.folder;
  }

  int run() {
    lock_ = take_run_folder(world_, folder_);
    record_ = std::make_unique<RunRecord>(world_, setup_);
    if (lock_ && !lock_->taken_over().empty()) log_warn("{}", lock_->taken_over());
    for (const auto& decision : setup_.decisions) log_info("{}", decision);
    try {
      const int code = train();
      record_->ended(code == 0 ? "finished" : "stopped", std::max(state_.step, resume_step_), stop_reason_);
      return code;
    } catch (const std::exception& error) {
      record_->ended("failed", state_.step, error.what());
      throw;
    }
  }

 private:
  int train() {
    resume_step_ = find_resume_point(world_, experiment());
    if (resume_step_ >= 0) record_->resumed(resume_step_);
    if (finished()) return 0;
    Watchdog::Times times;
    times.timeout = experiment().distributed.timeout;
    watchdog_ = std::make_unique<Watchdog>(world_, folder_.string(), times);
    watchdog_->phase("tokenizing text");
    phase(world_, [&] { require_data_files(experiment()); });
    tokenize_texts(world_, setup_);
    watchdog_->phase("reading data");
    phase(world_, [&] { data_.open(); });
    data_.report();
    watchdog_->phase("compiling");
    phase(world_, [&] {
      model_ = compile_model(setup_.request);
      // Weights that are not there, or of another model, must fail before memory is asked for.
      first_ = first_parameters(setup_);
    });
    check_files(world_, setup_);
    log_info("memory: {} bytes a rank, of which {} are kept between programs{}", model_.arena_bytes, model_.named.bytes,
             model_.host_bytes > 0 ? fmt::format("; {} bytes of host memory", model_.host_bytes) : "");
    std::string libraries;
    phase(world_, [&] {
      open_checkpoint();
      if (checkpoint_ && reports()) libraries = checkpoint_libraries(*checkpoint_);
    });
    watchdog_->phase("choosing libraries");
    libraries = choose_libraries(world_, setup_, model_, libraries, checkpoint_ ? checkpoint_->path() : "");
    if (!libraries.empty()) {
      log_info("{}", libraries);
      record_->decided(libraries);
    }
    session_ = std::make_unique<Session>(world_, *setup_.target, setup_.request, model_);
    watchdog_->watch(session_->executor().activity());
    watchdog_->phase("setting the first parameters");
    start_state();
    open_store();
    open_report();
    if (!experiment().sample.prompts.empty())
      samples_ = std::make_unique<TextSamples>(world_, setup_, model_.arena_bytes + copy_bytes_, state_.step);
    peak_flops_ = setup_.target->peak_flops(experiment().training.dtype) * world_.size();
    if (!loop()) {
      finish_report();
      return exit_stopped;
    }
    require_lock();
    watchdog_->phase("the export");
    export_model(*session_, setup_.model.spec, folder_ / "export", export_options(setup_, state_.step));
    finish_report();
    return 0;
  }

  void finish_report() {
    phase(world_, [&] {
      if (report_) report_->finish();
    });
  }

  const Experiment& experiment() const { return setup_.experiment; }
  std::int64_t steps() const { return experiment().training.steps; }
  bool reports() const { return world_.rank() == 0; }

  bool finished() {
    if (resume_step_ < steps()) return false;
    bool exported = false;
    phase(world_, [&] { exported = exported_step(folder_ / "export") == resume_step_; });
    if (!exported) return false;
    phase(world_, [&] {
      open_checkpoint();
      refuse_other_experiment(*checkpoint_, setup_);
    });
    log_info("this run is finished: step {} of {} is in {}; set training.steps higher to go on", resume_step_, steps(),
             folder_.string());
    return true;
  }

  // The one that the run resumes from.
  void open_checkpoint() {
    if (resume_step_ < 0 || checkpoint_) return;
    for (const auto& location : list_checkpoints((folder_ / "checkpoints").string()))
      if (location.step == resume_step_) checkpoint_ = std::make_unique<Checkpoint>(location.path);
    LONGHAUL_CHECK(checkpoint_, "checkpoint {} is gone", resume_step_);
  }

  void start_state() {
    if (checkpoint_) {
      state_ = load_checkpoint(*session_, *checkpoint_);
      phase(world_, [&] {
        refuse_other_model(state_, setup_.model.spec, checkpoint_->path());
        bad_steps_.restore(state_.bad_steps);
      });
      const std::string changes = take_changes(state_, setup_, data_.samples());
      if (!changes.empty()) log_warn("{}", changes);
      if (!experiment().model.weights.empty())
        log_info("model.weights is not read: parameters come from checkpoint {}", checkpoint_->path());
      checkpoint_.reset();
      data_.go_on_from(state_.sources);
      state_.data_seed = static_cast<std::uint64_t>(experiment().training.seed);
      return;
    }
    phase(world_, [&] { session_->set_parameters(first_); });
    report_first_parameters(setup_);
    state_.data_seed = static_cast<std::uint64_t>(experiment().training.seed);
    state_.init_seed = static_cast<std::uint64_t>(experiment().model.init_seed);
  }

  void open_store() {
    phase(world_, [&] {
      store_ = std::make_unique<CheckpointStore>((folder_ / "checkpoints").string(),
                                                 static_cast<int>(experiment().checkpoint.keep_latest_k));
      if (!experiment().checkpoint.asynchronous || experiment().checkpoint.interval == 0) return;
      const std::int64_t bytes = AsynchronousSaver::copy_bytes(*session_), limit = setup_.request.memory_limit;
      if (limit > 0 && model_.arena_bytes + bytes > limit)
        fail(
            "checkpoint.asynchronous needs a copy of {} bytes beside the {} of a rank's buffers, more than "
            "device.memory, {} "
            "bytes; set it to false",
            bytes, model_.arena_bytes, limit);
      saver_ = std::make_unique<AsynchronousSaver>(*session_, *store_);
      log_info("memory: {} bytes more a rank for asynchronous checkpoints", bytes);
      copy_bytes_ = bytes;
    });
  }

  void open_report() {
    phase(world_, [&] {
      if (!reports()) return;
      write_text_atomically((folder_ / "experiment.yaml").string(), to_yaml(experiment()));
      write_text_atomically((folder_ / "matmul.json").string(), setup_.target->libraries() + "\n");
      report_ = std::make_unique<MetricsReport>(
          folder_ / "metrics.jsonl", state_.step, steps(), experiment().metrics.log_freq,
          experiment().metrics.tensorboard ? folder_ / "tensorboard" : fs::path());
    });
    state_.experiment = to_yaml(experiment());
    state_.text = setup_.text;
    state_.model = spec_text(setup_.model.spec);
    state_.libraries = setup_.target->libraries();
  }

  void describe_work(const std::optional<Executor::Work>& before) {
    const std::optional<Executor::Work> now = session_->executor().work();
    if (before && now && reports()) log_info("a step takes {} of the device", (*now - *before).text());
  }

  // False when something stopped it before its end, or before what comes after.
  bool loop() {
    const std::int64_t batch = setup_.parallel.global_batch_size, micro_batches = setup_.parallel.accumulation_steps;
    const FlopsPerToken flops = flops_of(setup_);
    std::vector<std::int64_t> samples(static_cast<std::size_t>(batch));
    const std::int64_t first_step = state_.step + 1;
    SourceLosses source_losses(data_.training());
    watchdog_->phase(nullptr);
    if (stops(control_.now())) return false;
    if (first_step == 1 && experiment().validation.at_start && data_.validates()) {
      const std::vector<ValidationResult> results = validate(0);
      if (report_) report_->report_start(results);
    }
    for (std::int64_t step = first_step; step <= steps(); ++step) {
      const auto begin = std::chrono::steady_clock::now();
      data_.training().take(state_.sources, samples);
      if (reports() && step == first_step)
        if (const std::string text = describe_imbalance(setup_, *data_.training().loader, samples); !text.empty())
          log_info("attention of step {}, {}", step, text);
      const auto fill = [&](std::int64_t i) { data_.training().fill(*session_, samples, i); };
      const double rate = learning_rate(experiment(), step);
      source_losses.clear();
      std::function<void(std::int64_t)> after;
      if (source_losses.active()) after = [&](std::int64_t i) { source_losses.add(*session_, samples, i); };
      // The second step is like all that follow; in it graphs are captured.
      const auto before =
          step == first_step + (experiment().device.graphs ? 2 : 1) ? session_->executor().work() : std::nullopt;
      const std::int64_t verify_steps = experiment().checkpoint.verify_steps,
                         number = step - bad_steps_.skipped_steps() - state_.steps_without_label;
      const bool again = verify_steps > 0 && step % verify_steps == 0;
      // A device need not wait before the update for a loss that only ends the run.
      const bool at_once = setup_.target->has_own_memory() && !again && !after && !bad_steps_.active();
      StepResult result = at_once ? session_->step(number, rate, micro_batches, fill, true)
                                  : session_->accumulate(micro_batches, fill, after);
      if (again) compute_again(*session_, step, result, micro_batches, fill);
      std::string bad;
      const bool learns = result.valid_tokens > 0;
      if (!learns) {
        // Weight decay and moments would go on moving parameters by themselves.
        bad = "no token of the step is a label";
        ++state_.steps_without_label;
      } else if (bad_steps_.active()) {
        bad = bad_steps_.judge_loss(result.loss);
        if (bad.empty()) bad = bad_steps_.judge_norm(result.grad_norm = session_->gradient_norm());
      }
      // All ranks have the same numbers; together, so that one of them says it.
      if (bad.empty() && !std::isfinite(result.loss)) {
        finish_save();
        phase(world_, [&] {
          fail("step {}: the loss is {}; the run stops before it spoils the parameters (last checkpoint: {})", step,
               result.loss, last_checkpoint());
        });
      }
      if (bad.empty()) {
        if (!at_once) result.grad_norm = session_->update(number, rate);
        bad_steps_.took(result.loss, result.grad_norm);
      } else {
        log_warn("step {} is skipped: {}{}", step, bad,
                 learns ? "" : fmt::format(" ({} such steps so far)", state_.steps_without_label));
      }
      if (bad.empty() && !std::isfinite(result.grad_norm)) {
        finish_save();
        phase(world_, [&] {
          fail("step {}: the gradient norm is {}; the run stops (last checkpoint: {})", step, result.grad_norm,
               last_checkpoint());
        });
      }
      const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
      state_.step = step;
      watchdog_->finished_step(step, seconds);
      describe_work(before);

      StepMetrics metrics;
      metrics.step = step;
      metrics.skipped = bad;
      if (learns) {
        metrics.loss = result.loss;
        metrics.grad_norm = result.grad_norm;
      }
      metrics.learning_rate = rate;
      if (source_losses.active()) metrics.sources = source_losses.of_all(world_);
      metrics.valid_tokens = result.valid_tokens;
      if (reports() && session_->placement().holders() > 1) {
        const auto imbalance =
            attention_imbalance(session_->placement(), *data_.training().loader, samples, session_->rows());
        metrics.attention_imbalance = imbalance.work;
        metrics.attention_path = imbalance.path;
      }
      metrics.step_seconds = seconds;
      metrics.tokens_per_second = static_cast<double>(batch * setup_.sequence) / seconds;
      if (reports()) metrics.mfu = step_flops(flops, samples) / seconds / peak_flops_;
      metrics.peak_memory_bytes = session_->executor().arena_bytes() + copy_bytes_;
      if (reports()) metrics.process_memory = process_memory();
      const std::int64_t freq = experiment().validation.freq;
      if (data_.validates() && (step == steps() || (freq > 0 && step % freq == 0))) {
        metrics.validation = validate(step);
      }
      phase_if(step, [&] {
        if (lock_) lock_->require();
        if (report_) report_->report(metrics);
        if (reports() && hooks_.on_step) hooks_.on_step(metrics);
      });
      if (!bad.empty() && learns) phase(world_, [&] { bad_steps_.skipped(step, bad, last_checkpoint()); });
      if (samples_ && (step == steps() || is_due(experiment().sample.interval, step)))
        samples_->take(*session_, step, *watchdog_);
      if (step < steps() && is_due(experiment().exports.interval, step)) {
        watchdog_->phase("an export");
        export_step(*session_, setup_, step);
        watchdog_->phase(nullptr);
      }
      const std::int64_t verify = experiment().checkpoint.verify_replicas;
      if (verify > 0 && step % verify == 0) verify_copies();
      const std::int64_t interval = experiment().checkpoint.interval;
      const RunControl::Decision decision = step == steps() ? control_.now() : control_.after(step, seconds);
      must_save_ = step == steps() || !decision.stop.empty();
      if (must_save_ || decision.save || (interval > 0 && step % interval == 0)) {
        watchdog_->phase("saving a checkpoint");
        require_lock();
        if (verify == 0 || step % verify != 0) verify_copies();
        require_finite_state(*session_);
        state_.bad_steps = bad_steps_.state();
        save();
        if (must_save_) finish_save();
        watchdog_->phase(nullptr);
        control_.saved();
      } else if (saver_) {
        judge(saver_->poll());
      }
      if (stops(decision)) return false;
    }
    finish_save();
    return true;
  }

  std::vector<ValidationResult> validate(std::int64_t step) {
    watchdog_->phase("validation");
    std::vector<ValidationResult> results = data_.validate(*session_);
    for (const ValidationResult& set : results)
      if (!set.loss)
        log_warn("step {}: no token of the validation{} is a label", step, set.name.empty() ? "" : " set " + set.name);
    watchdog_->phase(nullptr);
    return results;
  }

  // What the model's own operations of a step come to: with packing, of the documents that its samples hold.
  double step_flops(const FlopsPerToken& flops, const std::vector<std::int64_t>& samples) const {
    const auto tokens = static_cast<double>(samples.size()) * static_cast<double>(setup_.sequence);
    SequenceLoader& loader = *data_.training().loader;
    if (loader.packing() == Packing::none) return tokens * flops.causal();
    double sum = tokens * flops.matmul;
    std::vector<std::int64_t> documents;
    for (const std::int64_t sample : samples) {
      const auto starts = loader.document_starts(sample);
      documents.clear();
      for (std::size_t i = 0; i < starts.size(); ++i)
        documents.push_back((i + 1 < starts.size() ? starts[i + 1] : setup_.sequence) - starts[i]);
      sum += packed_attention_flops(flops, documents);
    }
    return sum;
  }

  void verify_copies() {
    try {
      verify_replicas(*session_);
    } catch (const Error& error) {
      // CPUs of different kinds round differently, which the user allows.
      if (!experiment().distributed.different_cpus) throw;
      log_warn("{}", error.what());
    }
  }

  void require_lock() {
    phase(world_, [&] {
      if (lock_) lock_->require();
    });
  }

  bool stops(const RunControl::Decision& decision) {
    if (decision.stop.empty()) return false;
    stop_reason_ = decision.stop;
    log_warn(
        "stopped by {} after step {} of {} (last checkpoint: {}); exit code {}: the same command goes on from there",
        decision.stop, state_.step, steps(), last_checkpoint(), exit_stopped);
    return true;
  }

  // Writes the state, or begins to.
  void save() {
    if (!saver_) return judge(SaveOutcome{state_.step, save_checkpoint(*session_, *store_, state_)});
    finish_save();
    judge(saver_->start(state_));
  }
  void finish_save() {
    if (saver_) judge(saver_->finish());
  }

  // A disk that is full now may not be at the next interval. Not for ever: steps that nothing keeps are lost in the
  // end.
  void judge(const std::optional<SaveOutcome>& outcome) {
    if (!outcome) return;
    if (outcome->refused.empty()) {
      last_saved_ = outcome->step;
      failed_saves_ = 0;
      return;
    }
    const std::int64_t limit = experiment().checkpoint.max_failures;
    // What must be saved is this step: an earlier one's asynchronous save may end while it is asked for.
    if (++failed_saves_ >= limit || (must_save_ && outcome->step == state_.step))
      phase(world_, [&] {
        fail("the checkpoint of step {} cannot be written: {} ({} in a row; last checkpoint: {})", outcome->step,
             outcome->refused, failed_saves_, last_checkpoint());
      });
    log_warn(
        "the checkpoint of step {} cannot be written: {}; the run goes on and tries again (after {} in a row it stops; "
        "last checkpoint: {})",
        outcome->step, outcome->refused, limit, last_checkpoint());
  }

  // Agreement costs a collective: rank 0's failure to write a metrics line reaches the others at log steps and the end,
  // otherwise by its exception.
  template <typename Function>
  void phase_if(std::int64_t step, Function&& function) {
    if (step == steps())
      phase(world_, function);
    else
      function();
  }

  static bool is_due(std::int64_t interval, std::int64_t step) { return interval > 0 && step % interval == 0; }

  std::string last_checkpoint() const {
    const std::int64_t step = std::max(last_saved_, resume_step_);
    return step >= 0 ? fmt::format("step {}", step) : "none";
  }

  Communicator& world_;
  const TrainHooks& hooks_;
  std::unique_ptr<RunLock> lock_;  // rank 0's, until all else is gone
  std::unique_ptr<RunRecord> record_;
  RunSetup setup_;
  fs::path folder_;
  double peak_flops_ = 1;  // of all ranks
  std::int64_t resume_step_ = -1, last_saved_ = -1, failed_saves_ = 0;
  bool must_save_ = false;  // the last step, or a stop: what is not saved now is lost
  RunControl control_;
  BadSteps bad_steps_;
  std::string stop_reason_;
  TrainerData data_;
  CompiledModel model_;
  ParameterSource first_;
  std::unique_ptr<Checkpoint> checkpoint_;  // from which this run resumes, until it has
  std::unique_ptr<Session> session_;
  std::unique_ptr<CheckpointStore> store_;
  std::unique_ptr<AsynchronousSaver> saver_;  // of checkpoint.asynchronous; before the session and the store it goes
  std::int64_t copy_bytes_ = 0;
  TrainerState state_;
  std::unique_ptr<MetricsReport> report_;
  std::unique_ptr<TextSamples> samples_;
  std::unique_ptr<Watchdog> watchdog_;  // looks at the session
};

}  // namespace

int train(Communicator& world, const Experiment& experiment, std::chrono::steady_clock::time_point start,
          const TrainHooks& hooks) {
  return Trainer(world, experiment, start, hooks).run();
}

}  // namespace longhaul
