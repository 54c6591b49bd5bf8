// Exports of a run: how they are written, and those while it is trained (export.interval).
#pragma once
#include <cstdint>

#include "run/session.h"
#include "run/setup.h"
#include "run/weights.h"

namespace longhaul {

/// As the experiment and its model ask for.
ExportOptions export_options(const RunSetup& setup, std::int64_t step);

/// Exports into exports/step-N of the run folder, then removes the oldest there beyond export.keep_latest_k. What
/// cannot be written is a warning: the run goes on. Collective.
void export_step(Session& session, const RunSetup& setup, std::int64_t step);

}  // namespace longhaul
