#include "verify/shrink.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "base/error.h"
#include "model/initialise.h"
#include "plan/shrink.h"

namespace longhaul {
namespace {

constexpr std::int64_t most_hidden = 48, most_vocabulary = 97, least_head_dim = 8, step_of_head_dim = 4;
constexpr std::int64_t most_rows = 2, most_micro_batches = 3;

// ---- the model

/// The shortest run of neighbouring layers that holds every kind of layer, and two layers at least.
std::vector<LayerSpec> every_kind(const TransformerSpec& spec) {
  const auto layers = spec.each_layer();
  std::vector<std::size_t> kind;
  std::vector<const LayerSpec*> kinds;
  for (const LayerSpec* layer : layers) {
    const auto known = std::find_if(kinds.begin(), kinds.end(), [&](const LayerSpec* one) { return *one == *layer; });
    kind.push_back(static_cast<std::size_t>(known - kinds.begin()));
    if (known == kinds.end()) kinds.push_back(layer);
  }
  std::size_t first = 0, size = layers.size();
  std::map<std::size_t, std::size_t> inside;
  for (std::size_t begin = 0, end = 0; end < layers.size();) {
    ++inside[kind[end++]];
    while (inside.size() == kinds.size() && end - begin >= std::min<std::size_t>(2, layers.size())) {
      if (end - begin < size) first = begin, size = end - begin;
      if (--inside[kind[begin]] == 0) inside.erase(kind[begin]);
      ++begin;
    }
  }
  std::vector<LayerSpec> result;
  for (std::size_t i = first; i < first + size; ++i) result.push_back(*layers[i]);
  return result;
}

/// Fewer dimensions turn; longrope keeps as many of its factors, evenly chosen.
void shrink_rope(RopeSpec& rope, double ratio) {
  const std::int64_t least = rope.kind == RopeKind::dynamic ? 4 : 2;
  rope.rotary_dim = std::max(least, std::int64_t{std::llround(static_cast<double>(rope.rotary_dim) * ratio / 2) * 2});
  const auto pairs = static_cast<std::size_t>(rope.rotary_dim / 2);
  for (std::vector<double>* factors : {&rope.short_factors, &rope.long_factors}) {
    std::vector<double> kept;
    for (std::size_t i = 0; i < pairs && !factors->empty(); ++i)
      kept.push_back((*factors)[i * factors->size() / pairs]);
    *factors = kept;
  }
}

TransformerSpec smaller_spec(const RunSetup& large, std::int64_t sequence) {
  TransformerSpec spec = large.model.spec;
  const std::vector<LayerSpec> before = every_kind(spec);
  std::vector<LayerSpec> layers = before;
  const std::int64_t hidden = std::min(spec.hidden_size, most_hidden);
  const double width = static_cast<double>(hidden) / static_cast<double>(spec.hidden_size);
  std::set<std::int64_t> dims;
  std::vector<std::int64_t> windows;
  for (const LayerSpec& layer : layers) {
    dims.insert(layer.attention.head_dim);
    windows.push_back(layer.attention.window);
  }
  windows = smaller_windows(large.parallel, large.sequence, sequence, windows);
  for (std::size_t i = 0; i < layers.size(); ++i) {
    AttentionSpec& attention = layers[i].attention;
    const HeadCounts heads = smaller_heads(large.parallel, {attention.heads, attention.kv_heads}, attention.window > 0);
    attention.heads = heads.heads;
    attention.kv_heads = heads.kv_heads;
    // Sizes of heads that differ stay different.
    const auto rank = static_cast<std::int64_t>(std::distance(dims.begin(), dims.find(attention.head_dim)));
    const std::int64_t dim = std::min(attention.head_dim, least_head_dim + step_of_head_dim * rank);
    const double ratio = static_cast<double>(dim) / static_cast<double>(attention.head_dim);
    attention.scale /= std::sqrt(ratio);
    if (layers[i].rope.kind != RopeKind::none) shrink_rope(layers[i].rope, ratio);
    attention.head_dim = dim;
    attention.window = windows[i];
    layers[i].mlp.size = std::max<std::int64_t>(1, std::llround(static_cast<double>(layers[i].mlp.size) * width));
  }
  spec.layers.clear();
  for (const LayerSpec& layer : layers) spec.layers.push_back({1, layer});
  merge_equal_groups(spec);
  spec.hidden_size = hidden;
  spec.vocabulary = std::min(spec.vocabulary, most_vocabulary);
  spec.max_positions = std::max(sequence, spec.max_positions * sequence / large.sequence);
  // Products of fewer terms: larger weights keep activations of the same size, and attention from being uniform.
  spec.initializer_range = std::min(0.5, spec.initializer_range / std::sqrt(width));
  return spec;
}

std::string describe_layers(const TransformerSpec& spec) {
  std::string text;
  for (const auto& [repeat, layer] : spec.layers) {
    const AttentionSpec& a = layer.attention;
    text += fmt::format("{}{} of {}:{} heads of {}{}, MLP {}", text.empty() ? "" : "; ", repeat, a.heads, a.kv_heads,
                        a.head_dim, a.window ? fmt::format(", window {}", a.window) : "", layer.mlp.size);
  }
  return text;
}

// ---- the data

/// Every `stride`-th token of a stream, ids modulo a vocabulary.
class SparseTokens : public TokenSource {
 public:
  SparseTokens(std::unique_ptr<TokenSource> all, std::int64_t stride, std::int64_t vocabulary)
      : all_(std::move(all)), stride_(stride), vocabulary_(static_cast<std::int32_t>(vocabulary)) {}

  std::int64_t size() const override { return above(all_->size()); }
  void read(std::int64_t begin, std::int64_t count, std::int32_t* tokens) const override {
    for (std::int64_t i = 0; i < count; ++i) {
      all_->read((begin + i) * stride_, 1, tokens + i);
      // An id that a file's type holds, whatever its sign, becomes one of the vocabulary's.
      tokens[i] =
          static_cast<std::int32_t>(static_cast<std::uint32_t>(tokens[i]) % static_cast<std::uint32_t>(vocabulary_));
    }
  }
  bool has_loss_mask() const override { return all_->has_loss_mask(); }
  void read_loss_mask(std::int64_t begin, std::int64_t count, std::uint8_t* mask) const override {
    for (std::int64_t i = 0; i < count; ++i) all_->read_loss_mask((begin + i) * stride_, 1, mask + i);
  }
  bool has_documents() const override { return all_->has_documents(); }
  void document_ends(std::int64_t begin, std::int64_t end, std::vector<std::int64_t>& ends) const override {
    std::vector<std::int64_t> all;
    all_->document_ends(begin * stride_, std::min(end * stride_, all_->size()), all);
    for (const std::int64_t one : all)
      if (ends.empty() || ends.back() != above(one)) ends.push_back(above(one));
  }

 private:
  std::int64_t above(std::int64_t token) const { return (token + stride_ - 1) / stride_; }
  std::unique_ptr<TokenSource> all_;
  std::int64_t stride_;
  std::int32_t vocabulary_;
};

/// A stream without a file: tokens by a counter; documents of up to half a sequence, one in eight of up to two.
class CountedTokens : public TokenSource {
 public:
  CountedTokens(std::int64_t size, std::int64_t sequence, std::int64_t vocabulary)
      : size_(size), vocabulary_(static_cast<std::uint32_t>(vocabulary)) {
    for (std::int64_t end = 0, i = 0; end < size; ++i) {
      const std::int64_t longest = std::max<std::int64_t>(1, i % 8 == 7 ? 2 * sequence : sequence / 2);
      end = std::min(size, end + 1 + random(i, 1) % longest);
      ends_.push_back(end);
    }
  }
  std::int64_t size() const override { return size_; }
  void read(std::int64_t begin, std::int64_t count, std::int32_t* tokens) const override {
    for (std::int64_t i = 0; i < count; ++i) tokens[i] = static_cast<std::int32_t>(random(begin + i, 0) % vocabulary_);
  }
  bool has_documents() const override { return true; }
  void document_ends(std::int64_t begin, std::int64_t end, std::vector<std::int64_t>& ends) const override {
    ends.insert(ends.end(), std::upper_bound(ends_.begin(), ends_.end(), begin),
                std::upper_bound(ends_.begin(), ends_.end(), end));
  }

 private:
  static std::uint32_t random(std::int64_t i, std::uint32_t stream) {
    return philox({static_cast<std::uint32_t>(i), stream, 0, 11}, {13, 17})[0];
  }
  std::int64_t size_;
  std::uint32_t vocabulary_;
  std::vector<std::int64_t> ends_;
};

std::int64_t stride_of(const RunSetup& large, const RunSetup& small) {
  return large.sequence / small.sequence;
}

}  // namespace

RunSetup shrink_run(const RunSetup& large, int world, const Hosts& hosts) {
  Experiment experiment = large.experiment;
  pin_parallelism(large.parallel, experiment);
  if (large.parallel.gathers_parameters())
    experiment.parallelism.keep_gathered = large.request.options.schedule.keep_gathered;
  if (!large.request.options.schedule.recompute_steps.empty()) {  // chosen by the large run's memory
    experiment.activation_memory.budget.reset();
    experiment.activation_memory.mode = ActivationMode::recompute;
  }
  experiment.activation_memory.offload =
      large.request.options.schedule.offload_values > 0 ? OffloadMode::on : OffloadMode::off;
  experiment.parallelism.overlap =
      large.request.options.schedule.overlap_memory > 0 ? OverlapMode::on : OverlapMode::off;
  experiment.device.host_memory.reset();
  experiment.device.memory.reset();  // the large run's was held against it; this one is tiny
  auto& training = experiment.training;
  training.seq_len = smaller_sequence(large.parallel, large.sequence);
  training.micro_batch_size = std::min(training.micro_batch_size, most_rows);
  training.global_batch_size =
      training.micro_batch_size * large.parallel.data * std::min(large.parallel.accumulation_steps, most_micro_batches);
  experiment.model.weights.clear();
  LoadedModel model = large.model;
  model.notes.clear();
  model.spec = smaller_spec(large, training.seq_len);

  RunSetup small = prepare_run(experiment, model, world, hosts);
  // As many tiles of rows, of fewer rows.
  const double ratio = static_cast<double>(small.sequence) / static_cast<double>(large.sequence);
  std::int64_t& tile_rows = small.request.options.schedule.tile_rows;
  tile_rows = std::max<std::int64_t>(1, std::llround(static_cast<double>(tile_rows) * ratio));
  std::vector<std::string> decisions = large.decisions;
  const auto say = [&](const std::string& text) { decisions.push_back("shrunk: " + text); };
  const TransformerSpec &was = large.model.spec, &is = small.model.spec;
  say(fmt::format("{} layers ({}) become {} ({})", was.layer_count(), describe_layers(was), is.layer_count(),
                  describe_layers(is)));
  say(fmt::format("hidden_size {} becomes {}, vocabulary {} becomes {}, initializer_range {} becomes {:.3g}",
                  was.hidden_size, is.hidden_size, was.vocabulary, is.vocabulary, was.initializer_range,
                  is.initializer_range));
  say(fmt::format("training.seq_len {} becomes {}, micro_batch_size {} becomes {}, {} micro-batches a step become {}",
                  large.sequence, small.sequence, large.experiment.training.micro_batch_size, training.micro_batch_size,
                  large.parallel.accumulation_steps, small.parallel.accumulation_steps));
  if (!large.experiment.model.weights.empty())
    say("model.weights are not read; parameters are random, by model.init_seed");
  const std::int64_t stride = stride_of(large, small);
  if (training_groups(experiment).empty())
    say("data.files is empty: tokens are made by a counter, with documents of many lengths");
  else
    say(fmt::format(
        "data: one of {} tokens of the files, ids modulo {}; document ends and loss masks in the same places", stride,
        is.vocabulary));
  decisions.insert(decisions.end(), small.decisions.begin(), small.decisions.end());
  small.decisions = std::move(decisions);
  return small;
}

DataSource open_shrunk_source(const RunSetup& large, const RunSetup& small) {
  const std::int64_t vocabulary = small.model.spec.vocabulary;
  const auto finish = [&](DataSource& source) {
    source.packed = pack_documents(small.experiment, *source.stream);
    source.sampler = std::make_unique<Sampler>(source.tokens().size(), small.sequence,
                                               static_cast<std::uint64_t>(small.experiment.training.seed));
    source.loader = make_loader(small.experiment, source.tokens());
  };
  DataSource whole;
  for (const DataGroup& group : training_groups(large.experiment)) {
    DataSource source;
    source.group = group;
    auto all = std::make_unique<TokenDataset>(dataset_options(large, group));
    Sampler(all->size(), large.sequence, 0);  // refuses what training would
    source.stream = std::make_unique<SparseTokens>(std::move(all), stride_of(large, small), vocabulary);
    finish(source);
    if (group.name.empty()) return source;
    whole.parts.push_back(std::move(source));
  }
  if (!whole.parts.empty()) {
    mix(small, whole);
    return whole;
  }
  whole.stream = std::make_unique<CountedTokens>(small.parallel.global_batch_size * small.sequence + 1, small.sequence,
                                                 vocabulary);
  finish(whole);
  return whole;
}

}  // namespace longhaul
