#include "train/metrics.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <ctime>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace longhaul {
namespace {

// Keeps the lines of steps up to `last`; a torn last line (a crash while writing) goes as well.
void drop_later_lines(const std::filesystem::path& file, std::int64_t last) {
  std::ifstream in(file);
  if (!in) return;
  std::string kept, line;
  while (std::getline(in, line)) {
    const auto json = nlohmann::json::parse(line, nullptr, false);
    if (json.is_discarded() || !json.contains("step") || !json["step"].is_number_integer()) continue;
    if (json["step"].get<std::int64_t>() <= last) kept += line + "\n";
  }
  const std::filesystem::path temporary = file.string() + ".tmp";
  std::ofstream out(temporary);
  out << kept;
  out.close();
  if (!out) fail("cannot write {}", temporary.string());
  std::filesystem::rename(temporary, file);
}

// A terminal that somebody looks at: MPI launchers give ranks a pseudo-terminal without a size.
bool is_terminal() {
  winsize size{};
  return isatty(STDOUT_FILENO) != 0 && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
}

std::string bytes_text(std::int64_t bytes) {
  return bytes < (std::int64_t{1} << 30) ? fmt::format("{:.1f}MiB", static_cast<double>(bytes) / (1 << 20))
                                         : fmt::format("{:.2f}GiB", static_cast<double>(bytes) / (1 << 30));
}

}  // namespace

MetricsReport::MetricsReport(const std::filesystem::path& file, std::int64_t resumed_step, std::int64_t steps,
                             std::int64_t log_freq)
    : file_(file),
      first_step_(resumed_step + 1),
      steps_(steps),
      log_freq_(log_freq),
      terminal_(is_terminal()),
      begin_(std::chrono::steady_clock::now()) {
  drop_later_lines(file, resumed_step);
  stream_.open(file, std::ios::app);
  if (!stream_) fail("cannot open {} for writing", file.string());
}

void MetricsReport::report(const StepMetrics& metrics) {
  nlohmann::ordered_json json;
  json["step"] = metrics.step;
  json["loss"] = metrics.loss;
  if (metrics.validation_loss) json["validation_loss"] = *metrics.validation_loss;
  json["grad_norm"] = metrics.grad_norm;
  json["lr"] = metrics.learning_rate;
  json["tokens_per_second"] = metrics.tokens_per_second;
  json["mfu"] = metrics.mfu;
  json["valid_tokens"] = metrics.valid_tokens;
  if (metrics.attention_imbalance) json["attention_imbalance"] = *metrics.attention_imbalance;
  if (metrics.attention_path) json["attention_path"] = *metrics.attention_path;
  json["step_seconds"] = metrics.step_seconds;
  json["peak_memory_bytes"] = metrics.peak_memory_bytes;
  json["time"] = static_cast<double>(std::time(nullptr));
  stream_ << json.dump() << "\n" << std::flush;
  if (!stream_) fail("cannot write {}: is the disk full?", file_.string());

  if (metrics.step == first_step_ || metrics.step == steps_ || metrics.step % log_freq_ == 0 ||
      metrics.validation_loss) {
    std::string line =
        fmt::format("step {:>6}/{}  loss {:.5f}  grad_norm {:.4f}  lr {:.3e}  tokens/s {:.0f}  mfu {:.1f}%  memory {}",
                    metrics.step, steps_, metrics.loss, metrics.grad_norm, metrics.learning_rate,
                    metrics.tokens_per_second, 100 * metrics.mfu, bytes_text(metrics.peak_memory_bytes));
    if (metrics.validation_loss) line += fmt::format("  validation_loss {:.5f}", *metrics.validation_loss);
    say(line);
  }
  draw_bar(metrics.step);
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
