#include "run/data_groups.h"

#include "config/data_format.h"

namespace longhaul {
namespace {

DataGroup plain(const Experiment& experiment, const char* key, const std::vector<std::filesystem::path>& files) {
  return {key, "", files, experiment.data.format, experiment.data.mask_prompt, experiment.data.train_on, 1, {}};
}

DataGroup named(const Experiment& experiment, const std::string& key, const DataSet& set) {
  DataGroup group = plain(experiment, "", set.files);
  group.key = key + "." + set.name;
  group.name = set.name;
  if (!set.format.empty()) group.format = set.format;
  group.mask_prompt = set.mask_prompt.value_or(experiment.data.mask_prompt && data_format(group.format).prompts);
  group.weight = set.weight;
  group.epochs = set.epochs;
  group.train_on = set.train_on.value_or(experiment.data.train_on);
  return group;
}

}  // namespace

std::vector<DataGroup> training_groups(const Experiment& experiment) {
  std::vector<DataGroup> groups;
  if (!experiment.data.files.empty()) groups.push_back(plain(experiment, "data.files", experiment.data.files));
  for (const DataSet& set : experiment.data.sources) groups.push_back(named(experiment, "data.sources", set));
  return groups;
}

std::vector<DataGroup> validation_groups(const Experiment& experiment) {
  std::vector<DataGroup> groups;
  if (!experiment.data.validation_files.empty())
    groups.push_back(plain(experiment, "data.validation_files", experiment.data.validation_files));
  for (const DataSet& set : experiment.validation.sets) groups.push_back(named(experiment, "validation.sets", set));
  return groups;
}

std::vector<DataGroup> data_groups(const Experiment& experiment) {
  std::vector<DataGroup> groups = training_groups(experiment);
  for (DataGroup& group : validation_groups(experiment)) groups.push_back(std::move(group));
  return groups;
}

}  // namespace longhaul
