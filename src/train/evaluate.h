// longhaul eval: the losses of a model on the data of an experiment. Writes into no run folder.
#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "config/experiment.h"
#include "run/evaluation.h"

namespace longhaul {

struct EvaluationOptions {
  /// A run folder, whose checkpoint is taken, or a model folder with weights; empty: model.weights of the experiment.
  /// The experiment's section model then is that run's, or names that folder.
  std::filesystem::path from = {};
  std::optional<std::int64_t> step = {};  ///< of a run's checkpoint; none: the newest that is whole
  bool training = false;                  ///< the data that are trained on, too
  std::filesystem::path tokens = {};      ///< where text becomes token files, kept; empty: a temporary folder
};

struct EvaluatedSet {
  std::string key;  ///< "data.validation_files", "validation.sets.books", "data.sources.web"
  ValidationResult result;
};

struct EvaluationReport {
  std::string model;       ///< where its parameters came from
  std::int64_t step = -1;  ///< of a run's checkpoint
  std::vector<EvaluatedSet> sets;

  /// A table: of each set its labels, their mean loss and its exponential, the same by how much context labels had.
  std::string text() const;
  /// One JSON object on one line.
  std::string json() const;
};

/// Every validation set, over validation.steps global batches; where there is none, or with `training`, also data.files
/// or each of data.sources, in the order of their samples and without its weight. Compiles the evaluate program alone:
/// no memory for gradients and moments. The same on any number of ranks. Collective; throws Error when there are no
/// data, no weights, no such checkpoint, or another model's.
EvaluationReport evaluate(Communicator& world, const Experiment& experiment, const EvaluationOptions& options);

}  // namespace longhaul
