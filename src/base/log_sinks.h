// Private to src/base: where this process's log goes.
#pragma once
#include <spdlog/sinks/dist_sink.h>

namespace longhaul {

/// All sinks of the log: standard error, and log files while they are open. Thread-safe.
spdlog::sinks::dist_sink_mt& log_sinks();

}  // namespace longhaul
