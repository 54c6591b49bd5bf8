#include "plan/parallelism.h"

#include <algorithm>
#include <numeric>

#include <fmt/ranges.h>

#include "base/error.h"

namespace longhaul {
namespace {

struct NumberedLayer : AttentionLayer {
  std::size_t number = 0;
};

std::int64_t common_divisor(const std::vector<NumberedLayer>& layers) {
  std::int64_t divisor = 0;
  for (const auto& layer : layers) divisor = std::gcd(divisor, layer.heads);
  return std::max<std::int64_t>(1, divisor);
}

// Every way to split a sequence over `ranks` that the heads allow.
std::string pairs_that_work(std::int64_t ranks, std::int64_t heads) {
  std::string text;
  for (std::int64_t u = ranks; u >= 1; --u)
    if (ranks % u == 0 && heads % u == 0)
      text += fmt::format("{}{{ulysses: {}, ring: {}}}", text.empty() ? "" : ", ", u, ranks / u);
  return text;
}

void refuse_heads(const Experiment& experiment, const SequenceSplit& split, const std::vector<NumberedLayer>& layers) {
  for (const NumberedLayer& layer : layers)
    if (layer.heads % split.ulysses)
      fail(
          "parallelism.sequence is {}: layer {} has {} query heads, which do not divide over {} ulysses ranks; for {} "
          "ranks a sequence these work: {} (gather_kv may stand for ring)",
          value_of(experiment, "parallelism.sequence"), layer.number, layer.heads, split.ulysses, split.ranks(),
          pairs_that_work(split.ranks(), common_divisor(layers)));
}

void resolve_state(const Experiment& e, std::int64_t world, ResolvedParallelism& resolved) {
  resolved.zero_stage = e.parallelism.zero_stage.value_or(1);
  if (const auto group = e.parallelism.shard_group) {
    const std::vector<std::int64_t> possible = shard_groups(resolved);
    if (std::find(possible.begin(), possible.end(), *group) == possible.end())
      fail(
          "parallelism.shard_group is {}; a group is made of whole axes of the mesh data {} x ring {} x gather_kv {} x "
          "ulysses {}, from the last on, of which only data can be divided: for {} ranks these work: {}",
          *group, resolved.data, resolved.ring, resolved.gather, resolved.ulysses, world, fmt::join(possible, ", "));
    if (resolved.zero_stage == 0)
      fail(
          "parallelism.shard_group is {} while parallelism.zero_stage is 0, which shards nothing; use zero_stage 1, 2 "
          "or 3, or leave shard_group out",
          *group);
    resolved.shard_group = *group == world ? 0 : *group;
  }
  if (e.parallelism.keep_gathered.value_or(KeepGathered::never) != KeepGathered::never && resolved.zero_stage != 3)
    fail(
        "parallelism.keep_gathered is {} while parallelism.zero_stage is {}: only zero_stage 3 gathers parameters, the "
        "others keep them whole; use zero_stage 3 or leave keep_gathered out",
        value_of(e, "parallelism.keep_gathered"), resolved.zero_stage);
}

// The ways of layers with a window that keep tokens where `split` puts them: heads over none of its ranks, over its
// Ulysses ranks or over all.
std::string ways_that_work(const SequenceSplit& split, std::int64_t heads) {
  std::vector<std::int64_t> numbers = {split.ranks(), split.ulysses, 1};
  numbers.erase(std::unique(numbers.begin(), numbers.end()), numbers.end());
  std::string text;
  for (const std::int64_t u : numbers)
    if (heads % u == 0) text += (text.empty() ? "" : ", ") + text_of({u, split.ranks() / u, 1});
  return text + " (gather_kv may stand for ring)";
}

void check_windows(const Experiment& experiment, const SequenceSplit& split, const SequenceSplit& window,
                   const std::vector<NumberedLayer>& layers) {
  const std::string value = value_of(experiment, "parallelism.window_layers");
  if (layers.empty())
    fail("parallelism.window_layers is {}, but no layer of the model has a window; remove the key", value);
  const std::string ways = ways_that_work(split, common_divisor(layers));
  if (window.ranks() != split.ranks())
    fail(
        "parallelism.window_layers is {}, {} ranks; layers with a window are split over the same ranks as the others, "
        "{} of them ({}); these work: {}",
        value, window.ranks(), split.ranks(), text_of(split), ways);
  if (window.ulysses != 1 && window.ulysses != split.ulysses && window.ulysses != split.ranks())
    fail(
        "parallelism.window_layers is {}: its ulysses must be 1, that of parallelism.sequence ({}), or all {} ranks, "
        "as "
        "tokens stay where parallelism.sequence puts them; these work: {}",
        value, text_of(split), split.ranks(), ways);
  for (const NumberedLayer& layer : layers)
    if (layer.heads % window.ulysses)
      fail(
          "parallelism.window_layers is {}: layer {} has {} query heads, which do not divide over {} ulysses ranks; "
          "these work: {}",
          value, layer.number, layer.heads, window.ulysses, ways);
}

// "layers 0, 2-4"
std::string numbers_of(const std::vector<NumberedLayer>& layers) {
  std::string text = layers.size() == 1 ? "layer " : "layers ";
  for (std::size_t i = 0, j = 0; i < layers.size(); i = j) {
    for (j = i + 1; j < layers.size() && layers[j].number == layers[j - 1].number + 1;) ++j;
    text += fmt::format("{}{}", i ? ", " : "", layers[i].number);
    if (j > i + 1) text += fmt::format("{}{}", j == i + 2 ? ", " : "-", layers[j - 1].number);
  }
  return text;
}

}  // namespace

std::vector<std::int64_t> shard_groups(const ResolvedParallelism& parallel) {
  std::vector<std::int64_t> sizes{1};
  for (const std::int64_t axis : {parallel.ulysses, parallel.gather, parallel.ring})
    if (axis > 1) sizes.push_back(sizes.back() * axis);
  for (std::int64_t part = 2; part <= parallel.data; ++part)
    if (parallel.data % part == 0) sizes.push_back(parallel.sequence() * part);
  return sizes;
}

std::string text_of(const SequenceSplit& split) {
  std::string text;
  for (const auto& [name, ranks] :
       {std::pair{"ulysses", split.ulysses}, {"ring", split.ring}, {"gather_kv", split.gather_kv}})
    if (ranks > 1) text += fmt::format("{}{}: {}", text.empty() ? "" : ", ", name, ranks);
  return text.empty() ? "{ulysses: 1}" : "{" + text + "}";
}

ResolvedParallelism data_parallel(std::int64_t ranks, std::int64_t zero_stage) {
  ResolvedParallelism parallel;
  parallel.data = ranks;
  parallel.zero_stage = zero_stage;
  return parallel;
}

ResolvedParallelism resolve_parallelism(const Experiment& e, std::int64_t world, std::int64_t neighbours,
                                        const std::vector<AttentionLayer>& layers) {
  LONGHAUL_CHECK(world >= 1 && neighbours >= 1, "a world of {} ranks, {} of them together", world, neighbours);
  ResolvedParallelism resolved;
  const auto& parallelism = e.parallelism;
  if (parallelism.data && world % *parallelism.data != 0)
    fail(
        "parallelism.data is {}; it must divide the number of ranks, which is {}: start {} ranks, or a multiple of "
        "them "
        "(--ranks, mpirun -n, srun -n), or set it to auto",
        *parallelism.data, world, *parallelism.data);

  std::vector<NumberedLayer> all, windowed, whole;
  for (const AttentionLayer& layer : layers) {
    all.push_back({layer, all.size()});
    (layer.window > 0 ? windowed : whole).push_back(all.back());
  }
  const auto& others = parallelism.window_layers ? whole : all;  // the layers that `sequence` speaks of
  SequenceSplit split;
  if (parallelism.sequence) {
    split = *parallelism.sequence;
    if (world % split.ranks() != 0)
      fail(
          "parallelism.sequence is {}, {} ranks; that must divide the number of ranks, which is {}: start {} ranks, or "
          "a "
          "multiple of them (--ranks, mpirun -n, srun -n), or set it to auto",
          value_of(e, "parallelism.sequence"), split.ranks(), world, split.ranks());
    refuse_heads(e, split, others);
  } else {
    const std::int64_t available = world / parallelism.data.value_or(1), heads = common_divisor(others);
    // A divisor of all three divides their greatest common divisor, which is therefore the largest.
    split.ulysses = std::gcd(std::gcd(available, neighbours), heads);
    split.ring = available / split.ulysses;
    resolved.decisions.push_back(fmt::format(
        "parallelism.sequence auto for {} ranks: {{ulysses: {}, ring: {}}} ({} divide by {}, {} "
        "neighbouring ranks share a host)",
        available, split.ulysses, split.ring,
        parallelism.window_layers ? "query heads of every layer without a window" : "every layer's query heads", heads,
        neighbours));
  }
  if (parallelism.window_layers) {
    check_windows(e, split, *parallelism.window_layers, windowed);
    if (*parallelism.window_layers != split) resolved.window_layers = parallelism.window_layers;
  }
  if (split.ranks() > 1 && !windowed.empty() && !whole.empty())
    resolved.decisions.push_back(fmt::format("attention: {} (with a window) by {}, {} by {}", numbers_of(windowed),
                                             text_of(resolved.window_layers.value_or(split)), numbers_of(whole),
                                             text_of(split)));
  resolved.ulysses = split.ulysses;
  resolved.ring = split.ring;
  resolved.gather = split.gather_kv;
  resolved.data = parallelism.data.value_or(world / split.ranks());
  if (resolved.data * split.ranks() != world)
    fail("parallelism.data x parallelism.sequence is {} x {} = {}; it must be the number of ranks, which is {}",
         resolved.data, split.ranks(), resolved.data * split.ranks(), world);
  resolve_state(e, world, resolved);

  if (resolved.outer() > 1) {
    if (parallelism.token_order) {
      resolved.token_order = *parallelism.token_order;
      if (resolved.token_order == TokenOrder::balanced && !windowed.empty())
        resolved.decisions.push_back(
            "parallelism.token_order balanced: what a window sees may lie on any rank, so layers with one move all "
            "blocks");
    } else if (e.data.packing && windowed.empty()) {
      resolved.token_order = TokenOrder::balanced;
      resolved.decisions.push_back(
          "parallelism.token_order auto: balanced, which shares the attention of packed documents evenly");
    } else if (!whole.empty()) {
      resolved.token_order = TokenOrder::zigzag;
      resolved.decisions.push_back("parallelism.token_order auto: zigzag, which shares causal attention evenly");
    } else {
      resolved.decisions.push_back("parallelism.token_order auto: contiguous, as every layer has a window");
    }
  }

  const std::int64_t at_once = e.training.micro_batch_size * resolved.data;
  resolved.global_batch_size = e.training.global_batch_size.value_or(at_once);
  if (resolved.global_batch_size % at_once != 0)
    fail(
        "training.global_batch_size is {}; it must be a multiple of training.micro_batch_size x data-parallel groups = "
        "{} x {} = {} on {} ranks",
        resolved.global_batch_size, e.training.micro_batch_size, resolved.data, at_once, world);
  resolved.accumulation_steps = resolved.global_batch_size / at_once;
  return resolved;
}

}  // namespace longhaul
