#include "train/step_exports.h"

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "comm/exchange.h"

namespace longhaul {
namespace {

namespace fs = std::filesystem;

// By name, and so by step; an export that was cut off has no weights yet and counts as one.
std::vector<fs::path> exports_in(const fs::path& folder) {
  std::vector<fs::path> found;
  std::error_code none;
  for (fs::directory_iterator item(folder, none), end; !none && item != end; item.increment(none))
    if (item->path().filename().string().starts_with("step-")) found.push_back(item->path());
  std::sort(found.begin(), found.end());
  return found;
}

}  // namespace

ExportOptions export_options(const RunSetup& setup, std::int64_t step) {
  const Experiment::Export& keys = setup.experiment.exports;
  return {.family = setup.model.family,
          .source_config = setup.model.config_text,
          .dtype = keys.dtype,
          .step = step,
          .max_shard_bytes = keys.max_shard_size,
          .source_folder = setup.model.file.parent_path(),
          .sequence = setup.sequence};
}

void export_step(Session& session, const RunSetup& setup, std::int64_t step) {
  const fs::path folder = setup.experiment.job.folder / "exports";
  Communicator& world = session.world();
  try {
    export_model(session, setup.model.spec, folder / fmt::format("step-{:08}", step), export_options(setup, step));
    phase(world, [&] {
      const auto keep = static_cast<std::size_t>(setup.experiment.exports.keep_latest_k);
      if (world.rank() != 0 || keep == 0) return;
      std::vector<fs::path> all = exports_in(folder);
      // Those of steps that a resumed run has not reached again come last, and go first.
      std::stable_partition(all.begin(), all.end(), [&](const fs::path& one) {
        return one.filename().string() > fmt::format("step-{:08}", step);
      });
      for (std::size_t i = 0; i + keep < all.size(); ++i) fs::remove_all(all[i]);
    });
  } catch (const Error& error) {
    // All ranks know of it: none has anything half done.
    if (world.rank() == 0) log_warn("the export of step {} is not there: {}; the run goes on", step, error.what());
  }
}

}  // namespace longhaul
