#include "train/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>

#include "base/error.h"
#include "base/log.h"
#include "comm/exchange.h"
#include "config/schedule.h"
#include "data/dataset.h"
#include "data/loader.h"
#include "data/sampler.h"
#include "io/file.h"
#include "model/flops.h"
#include "run/attention_balance.h"
#include "run/checkpoint_saver.h"
#include "run/checkpointing.h"
#include "run/libraries.h"
#include "run/session.h"
#include "run/setup.h"
#include "run/source.h"
#include "run/weights.h"
#include "train/metrics.h"

namespace longhaul {
namespace {

namespace fs = std::filesystem;

class Trainer {
 public:
  Trainer(Communicator& world, const Experiment& experiment) : world_(world) {
    const Hosts hosts = find_hosts(world);
    phase(world, [&] { setup_ = prepare_run(experiment, world.size(), hosts); });
    folder_ = setup_.experiment.job.folder;
    for (const auto& decision : setup_.decisions) log_info("{}", decision);
  }

  int run() {
    find_resume_point();
    if (finished()) return 0;
    phase(world_, [&] {
      require_data_files(experiment());
      open_data();
    });
    report_data();
    phase(world_, [&] {
      model_ = compile_model(setup_.request);
      // Weights that are not there, or of another model, must fail before memory is asked for.
      first_ = first_parameters(setup_);
    });
    log_info("memory: {} bytes a rank, of which {} are kept between programs", model_.arena_bytes, model_.named.bytes);
    open_checkpoint();
    std::string libraries;
    phase(world_, [&] {
      if (checkpoint_ && reports()) libraries = checkpoint_libraries(*checkpoint_);
    });
    libraries = choose_libraries(world_, setup_, model_, libraries);
    if (!libraries.empty()) log_info("{}", libraries);
    session_ = std::make_unique<Session>(world_, *setup_.target, setup_.request, model_);
    start_state();
    open_store();
    open_report();
    peak_flops_ = setup_.target->peak_flops(experiment().training.dtype) * world_.size();
    loop();
    export_model(*session_, setup_.model.spec, folder_ / "export",
                 {.family = setup_.model.family,
                  .source_config = setup_.model.config_text,
                  .dtype = std::nullopt,
                  .step = state_.step});
    phase(world_, [&] {
      if (report_) report_->finish();
    });
    return 0;
  }

 private:
  const Experiment& experiment() const { return setup_.experiment; }
  std::int64_t steps() const { return experiment().training.steps; }
  bool reports() const { return world_.rank() == 0; }

  void find_resume_point() {
    const fs::path checkpoints = folder_ / "checkpoints";
    bool used = false;
    const bool off = experiment().checkpoint.resume == ResumeMode::off;
    phase(world_, [&] {
      std::error_code unreadable;
      if (fs::exists(folder_, unreadable) && !fs::is_directory(folder_, unreadable))
        fail("job.folder {} is not a folder; name one, or a path at which one can be made", folder_.string());
      try {
        used = !list_checkpoints(checkpoints.string()).empty() || fs::exists(folder_ / "metrics.jsonl", unreadable);
      } catch (const std::exception& error) {
        fail("job.folder {} cannot be read: {}", folder_.string(), error.what());
      }
      if (off && used)
        fail(
            "job.folder {} already holds a run, and checkpoint.resume is off; use another folder, remove it, or set "
            "checkpoint.resume=auto",
            folder_.string());
    });
    if (off) return;
    // Of runs that died; also when this one is finished and writes nothing.
    if (reports()) {
      finish_interrupted_replacements(checkpoints.string());
      for (const char* part : {"", "checkpoints", "export"}) remove_leftovers((folder_ / part).string());
    }
    std::vector<std::string> skipped;
    resume_step_ = newest_valid_step(world_, checkpoints.string(), skipped);
    for (const auto& reason : skipped) log_warn("skipped checkpoint {}", reason);
    if (resume_step_ >= 0) log_info("resuming from step {} in {}", resume_step_, checkpoints.string());
    // All ranks know the same; together, so that one of them says it.
    if (resume_step_ < 0 && !skipped.empty() && experiment().checkpoint.resume != ResumeMode::restart)
      phase(world_, [&] {
        fail(
            "{} holds {} checkpoints and none of them is whole (the newest: {}): nothing was changed. To start again "
            "at "
            "step 0 all the same, set checkpoint.resume=restart; or use another job.folder",
            checkpoints.string(), skipped.size(), skipped.front());
      });
    if (resume_step_ < 0 && used)
      log_warn(
          "{} holds metrics of an earlier run but no whole checkpoint: starting at step 0; they are kept in "
          "metrics-replaced.jsonl",
          folder_.string());
  }

  bool finished() {
    if (resume_step_ < steps()) return false;
    bool exported = false;
    phase(world_, [&] { exported = exported_step(folder_ / "export") == resume_step_; });
    if (!exported) return false;
    log_info("this run is finished: step {} of {} is in {}; set training.steps higher to go on", resume_step_, steps(),
             folder_.string());
    return true;
  }

  void open_data() {
    const auto open = [&](const char* key, const std::vector<fs::path>& files, bool shuffle) {
      try {
        return open_source(world_, setup_, files, shuffle);
      } catch (const Error& error) {
        fail("{}: {}", key, error.what());
      }
    };
    training_ = open("data.files", experiment().data.files, true);
    if (!experiment().data.validation_files.empty())
      validation_ = open("data.validation_files", experiment().data.validation_files, false);
  }

  void report_data() {
    const auto describe = [&](const char* what, const DataSource& source) {
      log_info("{}: {} tokens{}{}, {} samples of {}{}", what, source.dataset->size(),
               source.dataset->files() > 1 ? fmt::format(" in {} files", source.dataset->files()) : "",
               experiment().data.mask_prompt
                   ? fmt::format(" ({} of them of prompts, which are not learned)", source.dataset->prompt_tokens())
                   : "",
               source.sampler->samples(), setup_.sequence,
               source.sampler->dropped_tokens() ? fmt::format("; the last {} tokens fill no sample and are left out",
                                                              source.sampler->dropped_tokens())
                                                : "");
    };
    describe("training data", training_);
    if (const std::int64_t lone = training_.dataset->lone_surrogates())
      log_warn("data.files: {} halves of surrogate pairs in strings stand for no character and became U+FFFD", lone);
    if (validation_.dataset) describe("validation data", validation_);
  }

  void open_checkpoint() {
    if (resume_step_ < 0) return;
    phase(world_, [&] {
      for (const auto& location : list_checkpoints((folder_ / "checkpoints").string()))
        if (location.step == resume_step_) checkpoint_ = std::make_unique<Checkpoint>(location.path);
      LONGHAUL_CHECK(checkpoint_, "checkpoint {} is gone", resume_step_);
    });
  }

  void start_state() {
    if (checkpoint_) {
      state_ = load_checkpoint(*session_, *checkpoint_);
      phase(world_, [&] { refuse_other_model(state_, setup_.model.spec, checkpoint_->path()); });
      if (!experiment().model.weights.empty())
        log_info("model.weights is not read: parameters come from checkpoint {}", checkpoint_->path());
      checkpoint_.reset();
      if (state_.data_seed != static_cast<std::uint64_t>(experiment().training.seed))
        log_warn("training.seed is {}, but the checkpoint was made with {}: the order of the data changes here",
                 experiment().training.seed, state_.data_seed);
      // Other data, or another training.seq_len, makes other samples; the cursor may then lie past the last one.
      if (state_.cursor.position >= training_.sampler->samples()) {
        log_warn("the checkpoint is at sample {} of its data, but there are {} now: the next epoch begins",
                 state_.cursor.position, training_.sampler->samples());
        state_.cursor = {state_.cursor.epoch + 1, 0};
      }
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
      try {
        make_folders(folder_.string());
      } catch (const SystemError& error) {
        fail("job.folder {} cannot be made: {}; name a folder that can be written", folder_.string(), error.what());
      }
      write_text_atomically((folder_ / "experiment.yaml").string(), to_yaml(experiment()));
      write_text_atomically((folder_ / "matmul.json").string(), setup_.target->libraries() + "\n");
      report_ = std::make_unique<MetricsReport>(folder_ / "metrics.jsonl", state_.step, steps(),
                                                experiment().metrics.log_freq);
    });
    state_.experiment = to_yaml(experiment());
    state_.model = spec_text(setup_.model.spec);
    state_.libraries = setup_.target->libraries();
  }

  double validate() {
    const std::int64_t available = validation_.sampler->samples(), rows = session_->rows(),
                       batch = rows * session_->data_ranks();
    std::int64_t wanted = experiment().validation.steps > 0
                              ? experiment().validation.steps * setup_.parallel.global_batch_size
                              : available;
    wanted = std::min(wanted, available);
    double loss = 0, valid = 0;
    std::vector<std::int64_t> samples(static_cast<std::size_t>(rows));
    for (std::int64_t begin = 0; begin < wanted; begin += batch) {
      for (std::int64_t r = 0; r < rows; ++r)
        samples[static_cast<std::size_t>(r)] = std::min(begin + session_->data_rank() * rows + r, wanted - 1);
      fill_rows(*validation_.loader, *session_, samples);
      for (std::int64_t r = 0; r < rows; ++r)  // rows past the end repeat the last sample, and do not count
        if (begin + session_->data_rank() * rows + r >= wanted)
          std::fill_n(session_->micro_batch().labels.begin() + r * session_->slots(), session_->slots(), ignored_label);
      const auto [sum, count] = session_->evaluate();
      loss += sum;
      valid += count;
    }
    return loss / std::max(1.0, valid);
  }

  void loop() {
    const std::int64_t batch = setup_.parallel.global_batch_size, micro_batches = setup_.parallel.accumulation_steps;
    const double flops = flops_per_token(setup_.model.spec, setup_.sequence).causal();
    std::vector<std::int64_t> samples(static_cast<std::size_t>(batch));
    const std::int64_t first_step = state_.step + 1;
    for (std::int64_t step = first_step; step <= steps(); ++step) {
      const auto begin = std::chrono::steady_clock::now();
      training_.sampler->take(state_.cursor, samples);
      if (reports() && step == first_step)
        if (const std::string text = describe_imbalance(setup_, *training_.loader, samples); !text.empty())
          log_info("attention of step {}, {}", step, text);
      const auto fill = [&](std::int64_t i) { training_.fill(*session_, samples, i); };
      const double rate = learning_rate(experiment(), step);
      StepResult result = session_->accumulate(micro_batches, fill);
      // All ranks have the same numbers; together, so that one of them says it.
      if (!std::isfinite(result.loss)) {
        finish_save();
        phase(world_, [&] {
          fail("step {}: the loss is {}; the run stops before it spoils the parameters (last checkpoint: {})", step,
               result.loss, last_checkpoint());
        });
      }
      result.grad_norm = session_->update(step, rate);
      if (!std::isfinite(result.grad_norm)) {
        finish_save();
        phase(world_, [&] {
          fail("step {}: the gradient norm is {}; the run stops (last checkpoint: {})", step, result.grad_norm,
               last_checkpoint());
        });
      }
      const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
      state_.step = step;

      StepMetrics metrics;
      metrics.step = step;
      metrics.loss = result.loss;
      metrics.grad_norm = result.grad_norm;
      metrics.learning_rate = rate;
      metrics.valid_tokens = result.valid_tokens;
      if (reports() && session_->placement().holders() > 1) {
        const auto imbalance = attention_imbalance(session_->placement(), *training_.loader, samples, session_->rows());
        metrics.attention_imbalance = imbalance.work;
        metrics.attention_path = imbalance.path;
      }
      metrics.step_seconds = seconds;
      metrics.tokens_per_second = static_cast<double>(batch * setup_.sequence) / seconds;
      metrics.mfu = metrics.tokens_per_second * flops / peak_flops_;
      metrics.peak_memory_bytes = session_->executor().arena_bytes() + copy_bytes_;
      const std::int64_t freq = experiment().validation.freq;
      if (validation_.dataset && (step == steps() || (freq > 0 && step % freq == 0)))
        metrics.validation_loss = validate();
      phase_if(step, [&] {
        if (report_) report_->report(metrics);
      });
      const std::int64_t interval = experiment().checkpoint.interval;
      if (interval > 0 && (step % interval == 0 || step == steps())) {
        save();
      } else if (saver_) {
        judge(saver_->poll());
      }
    }
    finish_save();
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
    if (++failed_saves_ >= limit || outcome->step == steps())
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

  std::string last_checkpoint() const {
    const std::int64_t step = std::max(last_saved_, resume_step_);
    return step >= 0 ? fmt::format("step {}", step) : "none";
  }

  Communicator& world_;
  RunSetup setup_;
  fs::path folder_;
  double peak_flops_ = 1;  // of all ranks
  std::int64_t resume_step_ = -1, last_saved_ = -1, failed_saves_ = 0;
  DataSource training_, validation_;
  CompiledModel model_;
  ParameterSource first_;
  std::unique_ptr<Checkpoint> checkpoint_;  // from which this run resumes, until it has
  std::unique_ptr<Session> session_;
  std::unique_ptr<CheckpointStore> store_;
  std::unique_ptr<AsynchronousSaver> saver_;  // of checkpoint.asynchronous; before the session and the store it goes
  std::int64_t copy_bytes_ = 0;
  TrainerState state_;
  std::unique_ptr<MetricsReport> report_;
};

}  // namespace

int train(Communicator& world, const Experiment& experiment) {
  return Trainer(world, experiment).run();
}

}  // namespace longhaul
