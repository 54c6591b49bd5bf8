#include "run/source.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/log.h"
#include "comm/exchange.h"
#include "config/data_format.h"
#include "data/expand_files.h"
#include "model/initialise.h"
#include "model/parameters.h"
#include "run/model_overrides.h"
#include "run/weights.h"

namespace longhaul {

void DataSource::take(std::vector<SourceCursor>& cursors, std::span<std::int64_t> out) const {
  if (cursors.empty()) {
    if (parts.empty()) cursors.push_back({group.name, group.weight});
    for (const DataSource& part : parts) cursors.push_back({part.group.name, part.group.weight});
  }
  LONGHAUL_CHECK(cursors.size() == std::max<std::size_t>(1, parts.size()), "{} cursors of {} sources", cursors.size(),
                 parts.size());
  if (parts.empty()) {
    cursors[0].taken += static_cast<std::int64_t>(out.size());
    return sampler->take(cursors[0].cursor, out);
  }
  for (std::int64_t& sample : out) {
    const std::size_t source = order->next(cursors);
    parts[source].sampler->take(cursors[source].cursor, {&sample, 1});
    sample += mixed->first_sample(source);
  }
}

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

std::unique_ptr<PackedTokens> pack_documents(const Experiment& experiment, const TokenSource& source) {
  if (experiment.data.packing != PackingMode::best_fit) return nullptr;
  return std::make_unique<PackedTokens>(source, experiment.training.seq_len, experiment.data.long_documents);
}

std::unique_ptr<SequenceLoader> make_loader(const Experiment& experiment, const TokenSource& source) {
  return std::make_unique<SequenceLoader>(source, experiment.training.seq_len,
                                          experiment.data.packing ? Packing::documents : Packing::none);
}

DatasetOptions dataset_options(const RunSetup& setup, const DataGroup& group) {
  DatasetOptions options;
  options.vocabulary = setup.model.spec.vocabulary;
  if (const auto tokens = setup.token_files.find(group.key); tokens != setup.token_files.end()) {
    options.files = {tokens->second.string()};
    options.format = "datatrove";
    return options;
  }
  for (const auto& file : group.files) options.files.push_back(file.string());
  options.format = group.format;
  options.eos_token = setup.experiment.data.eos_token;
  options.mask_prompt = group.mask_prompt;
  options.token_bytes = setup.experiment.data.token_bytes;
  return options;
}

namespace {

// Of samples [first, last).
SampleCensus count_samples(SequenceLoader& loader, std::int64_t first, std::int64_t last) {
  SampleCensus census;
  if (!loader.leaves_labels_out()) return census;
  for (std::int64_t sample = first; sample < last; ++sample) {
    census.without_label += loader.labels(sample) == 0;
    const SequenceLoader::Cut cut = loader.cut(sample);
    census.cuts += cut.there;
    // A document is counted where it ends, or where the samples do.
    census.cut_documents += cut.there && (cut.ends || sample + 1 == last);
  }
  return census;
}

}  // namespace

DataSource open_source(Communicator& world, const RunSetup& setup, const DataGroup& group, bool shuffle, bool check) {
  const Experiment& experiment = setup.experiment;
  DataSource source;
  source.group = group;
  try {
    source.dataset = std::make_unique<TokenDataset>(dataset_options(setup, group));
    const std::int64_t size = source.dataset->size();
    if (check) source.dataset->validate(size * world.rank() / world.size(), size * (world.rank() + 1) / world.size());
    source.packed = pack_documents(experiment, *source.dataset);
    source.sampler = std::make_unique<Sampler>(source.tokens().size(), setup.sequence,
                                               static_cast<std::uint64_t>(experiment.training.seed), shuffle);
    source.loader = make_loader(experiment, source.tokens());
  } catch (const Error& error) {
    fail("{}: {}", group.key, error.what());
  }
  const std::int64_t samples = source.sampler->samples();
  if (check)
    source.census = count_samples(*source.loader, samples * world.rank() / world.size(),
                                  samples * (world.rank() + 1) / world.size());
  return source;
}

void mix(const RunSetup& setup, DataSource& source) {
  std::vector<double> weights;
  std::vector<const TokenSource*> tokens;
  for (const DataSource& part : source.parts) {
    weights.push_back(part.group.weight);
    tokens.push_back(&part.tokens());
  }
  source.order.emplace(weights);
  auto mixed = std::make_unique<MixedTokens>(std::move(tokens), setup.sequence);
  source.mixed = mixed.get();
  source.stream = std::move(mixed);
  source.loader = make_loader(setup.experiment, *source.stream);
}

DataSource open_training(Communicator& world, const RunSetup& setup, bool check) {
  const std::vector<DataGroup> groups = training_groups(setup.experiment);
  LONGHAUL_CHECK(!groups.empty(), "nothing to train on");
  if (groups.size() == 1 && groups[0].name.empty()) return open_source(world, setup, groups[0], true, check);
  DataSource source;
  for (const DataGroup& group : groups) source.parts.push_back(open_source(world, setup, group, true, check));
  mix(setup, source);
  const std::int64_t all = setup.experiment.training.steps * setup.parallel.global_batch_size;
  for (std::size_t i = 0; i < groups.size(); ++i) {
    if (!groups[i].epochs) continue;
    const std::int64_t samples = source.parts[i].sampler->samples();
    const double allowed = std::floor(*groups[i].epochs * static_cast<double>(samples) + 1e-9),
                 needed = std::ceil(source.order->share(i) * static_cast<double>(all) - 1e-6);
    if (needed > allowed)
      fail(
          "{}: epochs is {}, which allows {:.0f} samples of its {}, but its share of the run's {} samples, {:.4g} %, "
          "is "
          "{:.0f}: allow more epochs ({:.4g}), lower its weight, give it more data or train fewer steps",
          groups[i].key, *groups[i].epochs, allowed, samples, all, 100 * source.order->share(i), needed,
          std::ceil(1000 * needed / static_cast<double>(samples)) / 1000);
  }
  return source;
}

void report_source(Communicator& world, const RunSetup& setup, const std::string& what, const DataSource& source) {
  const Experiment& experiment = setup.experiment;
  const TokenDataset& dataset = *source.dataset;
  const std::int64_t samples = source.sampler->samples();
  const bool made = setup.token_files.contains(source.group.key);  // of text, before
  const bool text = data_format(source.group.format).text && !made;
  const auto end = experiment.data.eos_token;
  std::string details;
  if (dataset.files() > 1) details += fmt::format(" in {} files", dataset.files());
  if (text) {
    const std::int64_t token = end.value_or(setup.model.spec.vocabulary >= 257 ? 256 : -1);
    details += fmt::format(
        " (bytes{}; documents end with {}{})", experiment.data.tokenizer == "bytes" ? "" : ", by data.tokenizer auto",
        token >= 0 ? fmt::format("token {}", token) : "no token", end ? "" : ", by data.eos_token auto");
  }
  if (source.group.mask_prompt && !made)
    details += fmt::format(" ({} of them of prompts, which are not learned)", dataset.prompt_tokens());
  log_info("{}: {} tokens{}, {} samples of {}{}", what, dataset.size(), details, samples, setup.sequence,
           source.sampler->dropped_tokens()
               ? fmt::format("; the last {} tokens fill no sample and are left out", source.sampler->dropped_tokens())
               : "");
  std::vector<std::string> names;
  for (const auto& file : source.group.files) names.push_back(file.string());
  if (const auto other = misnamed_text(names, source.group.format))
    log_warn(
        "{}: {}, of data.format {} by its name, is read as {}: what stands in it is learned as it is written; if that "
        "is not meant, set data.format: {}",
        what, other->file, other->format, source.group.format, other->format);
  for (const std::string& guess : dataset.guesses()) log_info("{}: {}", what, guess);
  if (const std::int64_t lone = dataset.lone_surrogates())
    log_warn("{}: {} halves of surrogate pairs in strings stand for no character and became U+FFFD", what, lone);
  if (source.packed) {
    const PackingCounts& counts = source.packed->counts();
    const LongDocuments longer = experiment.data.long_documents;
    log_info(
        "{}: {} documents, the longest of {} tokens, packed whole; {} longer than a sample {}; {} tokens left out; "
        "{:.2f} "
        "% padding",
        what, counts.documents, counts.longest, counts.longer,
        longer == LongDocuments::split      ? "are split"
        : longer == LongDocuments::truncate ? "are truncated"
                                            : "are skipped",
        counts.lost_tokens,
        100.0 * static_cast<double>(counts.padding) / static_cast<double>(counts.samples * setup.sequence));
  }
  SampleCensus all;
  for (const SampleCensus& one : all_gather(world, source.census)) {
    all.without_label += one.without_label;
    all.cuts += one.cuts;
    all.cut_documents += one.cut_documents;
  }
  if (all.cuts > 0)
    log_info(
        "{}: samples cut {} documents, at {} places; what stands behind a cut begins anew and sees nothing of what "
        "stands before it",
        what, all.cut_documents, all.cuts);
  if (all.without_label > 0)
    log_warn("{}: {} of {} samples have no label, so that nothing is learned from them{}", what, all.without_label,
             samples, all.without_label == samples ? ": none has one" : "");
}

ParameterSource first_parameters(const RunSetup& setup) {
  if (!setup.experiment.model.weights.empty())
    return resized_source(weights_source(setup.experiment.model.weights, setup.model.stored, setup.model.family),
                          setup.model.stored, setup.model.spec);
  return [all = parameters(setup.model.spec), seed = static_cast<std::uint64_t>(setup.experiment.model.init_seed),
          threads = setup.target->options().threads](const std::string& name, std::int64_t begin, std::int64_t end,
                                                     DType dtype, void* target) {
    const auto parameter = std::find_if(all.begin(), all.end(), [&](const Parameter& one) { return one.name == name; });
    LONGHAUL_CHECK(parameter != all.end(), "no parameter {}", name);
    if (dtype == DType::float64)
      initialise(*parameter, seed, begin, end, static_cast<double*>(target), threads);
    else
      initialise(*parameter, seed, begin, end, static_cast<float*>(target), threads);
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
