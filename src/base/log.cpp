#include "base/log.h"

#include <fmt/ranges.h>
#include <spdlog/sinks/stdout_sinks.h>

#include <algorithm>
#include <array>

#include "base/environment.h"
#include "base/error.h"

namespace longhaul {
namespace {
thread_local int log_rank = 0;
}

void initialise_logging() {
  // Logs go to standard error, results (tables, dumps, the step line) to standard output.
  auto logger = spdlog::get("longhaul");
  if (!logger) logger = spdlog::stderr_logger_mt("longhaul");
  spdlog::set_default_logger(logger);
  spdlog::set_pattern("%H:%M:%S %L %v");
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
