#include "train/metrics.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <ctime>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/log.h"
#include "io/file.h"
#include "train/event_file.h"
#include "train/step_lines.h"

namespace longhaul {
namespace {

// A terminal that somebody looks at: MPI launchers give ranks a pseudo-terminal without a size.
bool is_terminal() {
  winsize size{};
  return isatty(STDOUT_FILENO) != 0 && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
}

std::string bytes_text(std::int64_t bytes) {
  return bytes < (std::int64_t{1} << 30) ? fmt::format("{:.1f}MiB", static_cast<double>(bytes) / (1 << 20))
                                         : fmt::format("{:.2f}GiB", static_cast<double>(bytes) / (1 << 30));
}

nlohmann::ordered_json number_or_null(const std::optional<double>& value) {
  return value ? nlohmann::ordered_json(*value) : nlohmann::ordered_json(nullptr);
}

std::string text_of(const std::optional<double>& value, int digits) {
  return value ? fmt::format("{:.{}f}", *value, digits) : std::string("none (no label)");
}

std::string key_of(const char* key, const ValidationResult& set) {
  return set.name.empty() ? key : fmt::format("{}.{}", key, set.name);
}

void add_validation(nlohmann::ordered_json& json, const std::vector<ValidationResult>& validation) {
  for (const ValidationResult& set : validation) {
    json[key_of("validation_loss", set)] = number_or_null(set.loss);
    nlohmann::ordered_json& buckets = json[key_of("validation_loss_by_position", set)] =
        nlohmann::ordered_json::array();
    for (const PositionLoss& one : set.by_position) buckets.push_back({one.first, one.sum / one.labels, one.labels});
  }
}

std::string validation_text(const std::vector<ValidationResult>& validation) {
  std::string text;
  for (const ValidationResult& set : validation)
    text += fmt::format("  {} {}", key_of("validation_loss", set), text_of(set.loss, 5));
  return text;
}

}  // namespace

MetricsReport::MetricsReport(const std::filesystem::path& file, std::int64_t resumed_step, std::int64_t steps,
                             std::int64_t log_freq, const std::filesystem::path& events)
    : file_(file),
      first_step_(resumed_step + 1),
      steps_(steps),
      log_freq_(log_freq),
      terminal_(is_terminal()),
      begin_(std::chrono::steady_clock::now()) {
  move_later_lines(file, resumed_step, "metrics-replaced.jsonl");
  lines_ = std::make_unique<LineFile>(file.string());
  flush_folder(file.parent_path().string());
  if (!events.empty()) events_ = std::make_unique<EventFile>(events, resumed_step);
}

MetricsReport::~MetricsReport() {
  // A run that fails has still its lines to write.
  try {
    if (waiting_) lines_->finish();
  } catch (const SystemError& error) {
    log_warn("lines of metrics are lost: {}", error.what());
  }
}

void MetricsReport::report(const StepMetrics& metrics) {
  nlohmann::ordered_json json;
  json["step"] = metrics.step;
  json["loss"] = number_or_null(metrics.loss);
  for (const SourceLoss& source : metrics.sources) {
    if (source.labels > 0) json["loss." + source.name] = source.sum / source.labels;
    json["valid_tokens." + source.name] = source.labels;
  }
  add_validation(json, metrics.validation);
  json["grad_norm"] = number_or_null(metrics.grad_norm);
  json["lr"] = metrics.learning_rate;
  json["tokens_per_second"] = metrics.tokens_per_second;
  json["mfu"] = metrics.mfu;
  json["valid_tokens"] = metrics.valid_tokens;
  if (metrics.attention_imbalance) json["attention_imbalance"] = *metrics.attention_imbalance;
  if (metrics.attention_path) json["attention_path"] = *metrics.attention_path;
  if (!metrics.skipped.empty()) json["skipped"] = metrics.skipped;
  json["step_seconds"] = metrics.step_seconds;
  json["peak_memory_bytes"] = metrics.peak_memory_bytes;
  if (metrics.process_memory > 0) json["process_memory_bytes"] = metrics.process_memory;
  json["time"] = static_cast<double>(std::time(nullptr));
  write(json);

  if (metrics.step == first_step_ || metrics.step == steps_ || metrics.step % log_freq_ == 0 ||
      !metrics.validation.empty())
    say(fmt::format("step {:>6}/{}  loss {}  grad_norm {}  lr {:.3e}  tokens/s {:.0f}  mfu {:.1f}%  memory {}{}",
                    metrics.step, steps_, text_of(metrics.loss, 5), text_of(metrics.grad_norm, 4),
                    metrics.learning_rate, metrics.tokens_per_second, 100 * metrics.mfu,
                    bytes_text(metrics.peak_memory_bytes), validation_text(metrics.validation)));
  draw_bar(metrics.step);
}

void MetricsReport::report_start(const std::vector<ValidationResult>& validation) {
  nlohmann::ordered_json json;
  json["step"] = 0;
  add_validation(json, validation);
  json["time"] = static_cast<double>(std::time(nullptr));
  write(json);
  say(fmt::format("step {:>6}/{}{}", 0, steps_, validation_text(validation)));
}

void MetricsReport::write(const nlohmann::ordered_json& json) {
  const std::string problem = lines_->append(json.dump());
  if (!problem.empty() && !waiting_)
    log_warn("{}; its lines wait in memory and are tried again at every step", problem);
  if (problem.empty() && waiting_) log_info("{} can be written again; no line is lost", file_.string());
  waiting_ = !problem.empty();
  if (events_) events_->add(json);
}

void MetricsReport::finish() {
  lines_->finish();
}

void MetricsReport::say(const std::string& line) {
  clear_bar();
  std::printf("%s\n", line.c_str());
  std::fflush(stdout);
}

void MetricsReport::clear_bar() {
  if (terminal_) std::printf("\r\033[K");
}

void MetricsReport::draw_bar(std::int64_t step) {
  if (!terminal_) return;
  clear_bar();
  if (step >= steps_) return;
  const double elapsed = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
  const double left = elapsed / static_cast<double>(step - first_step_ + 1) * static_cast<double>(steps_ - step);
  const int width = 30, done = static_cast<int>(width * step / steps_);
  std::printf("[%s%s] %3.0f%%  %02d:%02d:%02d left", std::string(static_cast<std::size_t>(done), '#').c_str(),
              std::string(static_cast<std::size_t>(width - done), '.').c_str(),
              100.0 * static_cast<double>(step) / static_cast<double>(steps_), static_cast<int>(left) / 3600,
              static_cast<int>(left) / 60 % 60, static_cast<int>(left) % 60);
  std::fflush(stdout);
}

}  // namespace longhaul
