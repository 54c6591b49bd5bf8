// The loss of a model on a set of data, over all ranks and by how much context a token had.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "run/position_losses.h"
#include "run/session.h"
#include "run/setup.h"
#include "run/source.h"

namespace longhaul {

/// What a set of data gave.
struct ValidationResult {
  std::string name;                       ///< of its group (DataGroup::name); "": data.validation_files or data.files
  std::optional<double> loss;             ///< mean over its labels; none: it has none
  double labels = 0;                      ///< how many
  std::vector<PositionLoss> by_position;  ///< the same, by how much context they had
};

/// Runs the evaluate program over the first validation.steps global batches of `set` (all of it where that is 0), in
/// the order of its samples. The result is the same for any number of ranks. Collective.
ValidationResult evaluate_source(Session& session, const RunSetup& setup, const DataSource& set);

}  // namespace longhaul
