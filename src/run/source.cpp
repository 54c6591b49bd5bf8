#include "run/source.h"

#include <algorithm>

#include "base/error.h"
#include "base/log.h"
#include "model/initialise.h"
#include "model/parameters.h"
#include "run/weights.h"

namespace longhaul {

void DataSource::fill(Session& session, const std::vector<std::int64_t>& samples, std::int64_t micro_batch) const {
  const std::int64_t rows = session.rows();
  const auto begin = static_cast<std::size_t>((micro_batch * session.data_ranks() + session.data_rank()) * rows);
  fill_rows(*loader, session, {samples.data() + begin, static_cast<std::size_t>(rows)});
}

void fill_rows(SequenceLoader& loader, Session& session, std::span<const std::int64_t> samples) {
  loader.fill(
      samples, [&](std::span<const std::int32_t> starts, std::int32_t length) { return session.order(starts, length); },
      session.micro_batch());
}

std::unique_ptr<SequenceLoader> make_loader(const Experiment& experiment, const TokenSource& source) {
  return std::make_unique<SequenceLoader>(source, experiment.training.seq_len,
                                          experiment.data.packing ? Packing::documents : Packing::none);
}

DatasetOptions dataset_options(const RunSetup& setup, const std::vector<std::filesystem::path>& files) {
  const Experiment& experiment = setup.experiment;
  DatasetOptions options;
  for (const auto& file : files) options.files.push_back(file.string());
  options.format = experiment.data.format;
  options.vocabulary = setup.model.spec.vocabulary;
  options.eos_token = experiment.data.eos_token;
  options.mask_prompt = experiment.data.mask_prompt;
  return options;
}

DataSource open_source(Communicator& world, const RunSetup& setup, const std::vector<std::filesystem::path>& files,
                       bool shuffle) {
  const Experiment& experiment = setup.experiment;
  DataSource source;
  source.dataset = std::make_unique<TokenDataset>(dataset_options(setup, files));
  const std::int64_t size = source.dataset->size();
  source.dataset->validate(size * world.rank() / world.size(), size * (world.rank() + 1) / world.size());
  source.sampler =
      std::make_unique<Sampler>(size, setup.sequence, static_cast<std::uint64_t>(experiment.training.seed), shuffle);
  source.loader = make_loader(experiment, *source.dataset);
  return source;
}

ParameterSource first_parameters(const RunSetup& setup) {
  if (!setup.experiment.model.weights.empty())
    return weights_source(setup.experiment.model.weights, setup.model.spec, setup.model.family);
  return [all = parameters(setup.model.spec), seed = static_cast<std::uint64_t>(setup.experiment.model.init_seed)](
             const std::string& name, std::int64_t begin, std::int64_t end, DType dtype, void* target) {
    const auto parameter = std::find_if(all.begin(), all.end(), [&](const Parameter& one) { return one.name == name; });
    LONGHAUL_CHECK(parameter != all.end(), "no parameter {}", name);
    if (dtype == DType::float64)
      initialise(*parameter, seed, begin, end, static_cast<double*>(target));
    else
      initialise(*parameter, seed, begin, end, static_cast<float*>(target));
  };
}

void report_first_parameters(const RunSetup& setup) {
  const Experiment& experiment = setup.experiment;
  if (!experiment.model.weights.empty()) return log_info("weights read from {}", experiment.model.weights.string());
  log_info("parameters: random, by model.init_seed {} (model.weights is not set)", experiment.model.init_seed);
  const std::filesystem::path folder = setup.model.file.parent_path();
  std::vector<std::string> weights;
  std::error_code error;
  for (std::filesystem::directory_iterator item(folder, error), end; !error && item != end; item.increment(error)) {
    const std::string name = item->path().filename().string();
    if (name.ends_with(".safetensors") || name.starts_with("pytorch_model")) weights.push_back(name);
  }
  if (weights.empty()) return;
  std::sort(weights.begin(), weights.end());
  log_warn(
      "{} holds weights ({}{}) which are not read: training starts at random. To start from them, set model.weights={}",
      folder.string(), weights.front(), weights.size() > 1 ? ", ..." : "", folder.string());
}

}  // namespace longhaul
