// What a run reports: metrics.jsonl at full precision, a console line, a progress bar on a terminal.
#pragma once
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "run/source_losses.h"
#include "train/trainer_data.h"

namespace longhaul {

class EventFile;
class LineFile;

struct StepMetrics {
  std::int64_t step = 0;
  std::optional<double> loss;                ///< none: no token of the step was a label
  std::vector<SourceLoss> sources;           ///< of data.sources, one each
  std::vector<ValidationResult> validation;  ///< of every set, when there was one after the step
  std::optional<double> grad_norm;           ///< none without a label
  double learning_rate = 0;
  double tokens_per_second = 0;
  double mfu = 0;  ///< model FLOPs (of visible pairs) over the measured FMA peak of the cores that the ranks use, 0..1
  double valid_tokens = 0;
  /// AttentionImbalance::work and ::path (attention_balance.h); none when ranks do not share attention.
  std::optional<double> attention_imbalance, attention_path;
  std::string skipped;  ///< why the step was not taken (BadSteps); empty: it was
  double step_seconds = 0;
  std::int64_t peak_memory_bytes = 0;  ///< of a rank's arena
  std::int64_t process_memory = 0;     ///< of rank 0's process (base/host.h)
};

/// Rank 0's report. Every step goes to metrics.jsonl; every log_freq-th, the first and the last to standard output.
class MetricsReport {
 public:
  /// Opens `file` for appending. Lines past `resumed_step` are moved to metrics-replaced.jsonl beside it first: their
  /// steps come again. Throws Error when the file cannot be read or written; then it is as it was.
  /// `events`: a folder for the same numbers as TensorBoard reads them (event_file.h); empty: none.
  MetricsReport(const std::filesystem::path& file, std::int64_t resumed_step, std::int64_t steps, std::int64_t log_freq,
                const std::filesystem::path& events = {});

  ~MetricsReport();

  /// A line that the disk refuses waits for the next step; nothing is lost and the run goes on.
  void report(const StepMetrics& metrics);
  /// A line of step 0: the validation before the first step.
  void report_start(const std::vector<ValidationResult>& validation);
  /// Writes the lines that wait. Throws SystemError when the disk still refuses.
  void finish();
  /// A line above the progress bar.
  void say(const std::string& line);

 private:
  void write(const nlohmann::ordered_json& json);
  void draw_bar(std::int64_t step);
  void clear_bar();
  std::filesystem::path file_;
  std::unique_ptr<LineFile> lines_;
  std::unique_ptr<EventFile> events_;
  bool waiting_ = false;
  std::int64_t first_step_, steps_, log_freq_;
  bool terminal_;
  std::chrono::steady_clock::time_point begin_;
};

}  // namespace longhaul
