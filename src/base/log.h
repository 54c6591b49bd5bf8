// Logging: spdlog behind one function, so that a rank's messages carry its rank and every rank but 0 stays quiet below
// warnings.
#pragma once
#include <spdlog/spdlog.h>

namespace longhaul {

/// Sets the pattern and level of this process. `rank` < 0: ranks are threads of this process and call set_thread_rank.
/// LONGHAUL_LOG (trace, debug, info, warn, error) sets the level; default info.
void initialise_logging();

/// The calling thread logs as this rank. Ranks other than 0 log only warnings and errors.
void set_log_rank(int rank, int world);

/// True when the calling thread's info lines are printed (rank 0, or no rank set).
bool logs_info();

template <typename... Arguments>
void log_info(fmt::format_string<Arguments...> format, Arguments&&... arguments) {
  if (logs_info()) spdlog::info(format, std::forward<Arguments>(arguments)...);
}
template <typename... Arguments>
void log_debug(fmt::format_string<Arguments...> format, Arguments&&... arguments) {
  if (logs_info()) spdlog::debug(format, std::forward<Arguments>(arguments)...);
}
/// Warnings are printed by rank 0 only, or by all with their rank when they concern one rank: use log_warn_rank then.
template <typename... Arguments>
void log_warn(fmt::format_string<Arguments...> format, Arguments&&... arguments) {
  if (logs_info()) spdlog::warn(format, std::forward<Arguments>(arguments)...);
}

}  // namespace longhaul
