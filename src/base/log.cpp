#include "base/log.h"

#include <fmt/ranges.h>
#include <spdlog/sinks/stdout_sinks.h>

#include <algorithm>
#include <array>

#include "base/environment.h"
#include "base/error.h"
#include "base/log_sinks.h"

namespace longhaul {
namespace {
thread_local int log_rank = 0;
}

spdlog::sinks::dist_sink_mt& log_sinks() {
  // Made once, whoever logs first; spdlog's default logger is the process's own anyway.
  static const auto sinks = [] {
    auto made = std::make_shared<spdlog::sinks::dist_sink_mt>();
    made->add_sink(std::make_shared<spdlog::sinks::stderr_sink_mt>());
    auto logger = std::make_shared<spdlog::logger>("longhaul", made);
    logger->set_pattern("%H:%M:%S %L %v");
    spdlog::set_default_logger(logger);
    return made;
  }();
  return *sinks;
}

void initialise_logging() {
  // Logs go to standard error, results (tables, dumps, the step line) to standard output.
  log_sinks();
  const std::string level = environment("LONGHAUL_LOG", "info");
  constexpr std::array levels = {"trace", "debug", "info", "warn", "error"};
  if (std::find(levels.begin(), levels.end(), level) == levels.end())
    fail("LONGHAUL_LOG is '{}'; it must be one of {}", level, fmt::join(levels, ", "));
  spdlog::set_level(spdlog::level::from_str(level));
}

void set_log_rank(int rank, int) {
  log_rank = rank;
}
bool logs_info() {
  return log_rank == 0;
}

}  // namespace longhaul
