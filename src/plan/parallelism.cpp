#include "plan/parallelism.h"

#include <algorithm>
#include <numeric>

#include <fmt/ranges.h>

#include "base/error.h"

namespace longhaul {
namespace {

std::int64_t common_divisor(const std::vector<AttentionLayer>& layers) {
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

void refuse_heads(const Experiment& experiment, const SequenceSplit& split, const std::vector<AttentionLayer>& layers) {
  for (std::size_t i = 0; i < layers.size(); ++i)
    if (layers[i].heads % split.ulysses)
      fail(
          "parallelism.sequence is {}: layer {} has {} query heads, which do not divide over {} ulysses ranks; for {} "
          "ranks a sequence these work: {} (gather_kv may stand for ring)",
          value_of(experiment, "parallelism.sequence"), i, layers[i].heads, split.ulysses, split.ranks(),
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

}  // namespace

std::vector<std::int64_t> shard_groups(const ResolvedParallelism& parallel) {
  std::vector<std::int64_t> sizes{1};
  for (const std::int64_t axis : {parallel.ulysses, parallel.gather, parallel.ring})
    if (axis > 1) sizes.push_back(sizes.back() * axis);
  for (std::int64_t part = 2; part <= parallel.data; ++part)
    if (parallel.data % part == 0) sizes.push_back(parallel.sequence() * part);
  return sizes;
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
    fail("parallelism.data is {}; it must divide the number of ranks, which is {}", *parallelism.data, world);

  SequenceSplit split;
  if (parallelism.sequence) {
    split = *parallelism.sequence;
    if (world % split.ranks() != 0)
      fail("parallelism.sequence is {}, {} ranks; that must divide the number of ranks, which is {}",
           value_of(e, "parallelism.sequence"), split.ranks(), world);
    refuse_heads(e, split, layers);
  } else {
    const std::int64_t available = world / parallelism.data.value_or(1), heads = common_divisor(layers);
    // A divisor of all three divides their greatest common divisor, which is therefore the largest.
    split.ulysses = std::gcd(std::gcd(available, neighbours), heads);
    split.ring = available / split.ulysses;
    resolved.decisions.push_back(fmt::format(
        "parallelism.sequence auto for {} ranks: {{ulysses: {}, ring: {}}} (every layer's query heads divide by {}, {} "
        "neighbouring ranks share a host)",
        available, split.ulysses, split.ring, heads, neighbours));
  }
  resolved.ulysses = split.ulysses;
  resolved.ring = split.ring;
  resolved.gather = split.gather_kv;
  resolved.data = parallelism.data.value_or(world / split.ranks());
  if (resolved.data * split.ranks() != world)
    fail("parallelism.data x parallelism.sequence is {} x {} = {}; it must be the number of ranks, which is {}",
         resolved.data, split.ranks(), resolved.data * split.ranks(), world);
  resolve_state(e, world, resolved);

  if (resolved.outer() > 1) {
    const auto windows =
        std::count_if(layers.begin(), layers.end(), [](const AttentionLayer& layer) { return layer.window > 0; });
    const bool some = windows > 0, all = windows == static_cast<std::ptrdiff_t>(layers.size());
    if (parallelism.token_order) {
      resolved.token_order = *parallelism.token_order;
      if (resolved.token_order == SequenceOrder::balanced && some)
        resolved.decisions.push_back(
            "parallelism.token_order balanced: what a window sees may lie on any rank, so layers with one move all "
            "blocks");
    } else if (e.data.packing && !some) {
      resolved.token_order = SequenceOrder::balanced;
      resolved.decisions.push_back(
          "parallelism.token_order auto: balanced, which shares the attention of packed documents evenly");
    } else if (!all) {
      resolved.token_order = SequenceOrder::zigzag;
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
