#include "plan/alternatives.h"

#include <algorithm>
#include <numeric>

#include <fmt/format.h>

namespace longhaul {
namespace {

bool same(const SequenceSplit& split, const ResolvedParallelism& parallel) {
  return split == SequenceSplit{parallel.ulysses, parallel.ring, parallel.gather};
}

// Ways to split a sequence over `ranks`: by heads as far as `ulysses` goes, the rest in a ring or by gathering, and
// without heads at all.
std::vector<SequenceSplit> splits_over(std::int64_t ranks, std::int64_t ulysses) {
  const std::int64_t heads = std::gcd(ranks, ulysses), rest = ranks / heads;
  std::vector<SequenceSplit> splits{{heads, rest, 1}, {heads, 1, rest}, {1, ranks, 1}, {1, 1, ranks}};
  std::vector<SequenceSplit> distinct;
  for (const SequenceSplit& split : splits)
    if (std::find(distinct.begin(), distinct.end(), split) == distinct.end()) distinct.push_back(split);
  return distinct;
}

}  // namespace

std::vector<Alternative> other_placements(const Experiment& experiment, const ResolvedParallelism& parallel,
                                          std::int64_t world) {
  std::vector<Alternative> list;
  const auto& keys = experiment.parallelism;
  if (!keys.zero_stage && !keys.shard_group && world > 1)
    for (const std::int64_t stage : {0, 1, 2, 3}) {
      if (stage == parallel.zero_stage) continue;
      Alternative one{fmt::format("parallelism.zero_stage={}", stage), experiment};
      one.experiment.parallelism.zero_stage = stage;
      list.push_back(std::move(one));
    }
  if (keys.sequence || keys.window_layers) return list;
  const auto add = [&](const SequenceSplit& split) {
    if (same(split, parallel)) return;
    Alternative one{fmt::format("parallelism.sequence={}", text_of(split)), experiment};
    one.experiment.parallelism.sequence = split;
    list.push_back(std::move(one));
  };
  const std::int64_t most = world / keys.data.value_or(1);
  for (const SequenceSplit& split : splits_over(most, parallel.ulysses)) add(split);
  if (!keys.data && !experiment.training.global_batch_size)
    for (const std::int64_t fewer : {most / 2, std::int64_t{1}})
      if (fewer >= 1 && fewer < most && most % fewer == 0) {
        const std::int64_t heads = std::gcd(fewer, parallel.ulysses);
        add({heads, fewer / heads, 1});
        if (fewer == 1) break;
      }
  return list;
}

std::vector<ComparedRun> compared_runs(const Experiment& experiment, std::int64_t world) {
  Experiment alone = experiment, split = experiment;
  for (Experiment* one : {&alone, &split}) {
    one->parallelism.data.reset();
    one->parallelism.window_layers.reset();
    one->parallelism.token_order.reset();
    one->training.global_batch_size.reset();  // as many sequences as there are groups
  }
  alone.parallelism.sequence = SequenceSplit{};
  split.parallelism.sequence = SequenceSplit{world, 1, 1};
  return {{"data parallelism, keeping all", alone, LayerPolicy::keep},
          {"data parallelism, making all but attention again", alone, LayerPolicy::all_but_attention},
          {"Ulysses, keeping all", split, LayerPolicy::keep},
          {"Ulysses, making all again", split, LayerPolicy::nothing},
          {"Ulysses, making all but attention again (AutoSP's policy)", split, LayerPolicy::all_but_attention},
          {"this plan", experiment, LayerPolicy::chosen}};
}

}  // namespace longhaul
