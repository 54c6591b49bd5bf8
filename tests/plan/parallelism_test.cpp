// From the keys of `parallelism` to a mesh and to the tokens that ranks hold.
#include "plan/parallelism.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <numeric>
#include <set>

#include "base/error.h"
#include "plan/mesh.h"

using namespace longhaul;
using Catch::Matchers::Contains;

namespace {

Experiment experiment(const std::string& keys) {
  return parse_experiment("model: {config: m.json}\n" + keys, "/somewhere/run.yaml");
}
ResolvedParallelism resolve(const std::string& keys, std::int64_t world, const std::vector<std::int64_t>& heads,
                            std::int64_t neighbours = 0, std::int64_t window = 0) {
  std::vector<AttentionLayer> layers;
  for (const std::int64_t count : heads) layers.push_back({count, window});
  return resolve_parallelism(experiment(keys), world, neighbours ? neighbours : world, layers);
}
using Split = std::vector<std::int64_t>;
Split split(const ResolvedParallelism& r) {
  return {r.data, r.ring, r.gather, r.ulysses};
}

}  // namespace

TEST_CASE("auto sequence: ulysses while heads and the host allow, ring for the rest") {
  CHECK(split(resolve("", 6, {4, 8})) == Split{1, 3, 1, 2});
  CHECK(split(resolve("", 8, {8})) == Split{1, 1, 1, 8});
  CHECK(split(resolve("", 8, {8}, 4)) == Split{1, 2, 1, 4});    // two hosts of four
  CHECK(split(resolve("", 12, {8}, 3)) == Split{1, 12, 1, 1});  // hosts of three: no divisor of 8 but 1
  CHECK(split(resolve("", 5, {7})) == Split{1, 5, 1, 1});
  CHECK(split(resolve("parallelism: {data: 2}", 16, {4})) == Split{2, 2, 1, 4});
  CHECK(split(resolve("", 1, {4})) == Split{1, 1, 1, 1});
  const ResolvedParallelism r = resolve("", 6, {4, 8});
  REQUIRE(r.decisions.size() == 2);
  CHECK_THAT(r.decisions[0], Contains("{ulysses: 2, ring: 3}"));
  CHECK_THAT(r.decisions[1], Contains("zigzag"));
  CHECK(r.zero_stage == 1);
}

TEST_CASE("explicit splits take the ranks that they name, data the rest") {
  CHECK(split(resolve("parallelism: {sequence: 2}", 8, {4})) == Split{4, 1, 1, 2});
  CHECK(split(resolve("parallelism: {sequence: {ring: 4}}", 8, {3})) == Split{2, 4, 1, 1});
  CHECK(split(resolve("parallelism: {sequence: {ulysses: 2, gather_kv: 3}}", 6, {4})) == Split{1, 1, 3, 2});
  CHECK(resolve("parallelism: {sequence: 2}", 4, {4}).decisions.empty());
  const ResolvedParallelism r = resolve(
      "parallelism: {data: 2, sequence: {ulysses: 2, ring: 2}, zero_stage: 3}\n"
      "training: {global_batch_size: 8, micro_batch_size: 2}",
      8, {12});
  CHECK(r.zero_stage == 3);
  CHECK(r.accumulation_steps == 2);
  CHECK(r.global_batch_size == 8);
  CHECK(describe(r) == "8 ranks = data 2 x ring 2 x ulysses 2, zigzag order, zero_stage 3");
  CHECK(describe(resolve("", 1, {4})) == "1 ranks = data 1 x ulysses 1, zero_stage 1");
}

TEST_CASE("what cannot be is refused with what can") {
  CHECK_THROWS_WITH(resolve("parallelism: {sequence: 8}", 8, {8, 12}),
                    Contains("layer 1 has 12 query heads") &&
                        Contains("{ulysses: 4, ring: 2}, {ulysses: 2, ring: 4}, "
                                 "{ulysses: 1, ring: 8}") &&
                        !Contains("{ulysses: 8"));
  CHECK_THROWS_WITH(resolve("parallelism: {sequence: 3}", 4, {12}), Contains("parallelism.sequence is 3"));
  CHECK_THROWS_WITH(resolve("parallelism: {sequence: {ring: 2, ulysses: 3}}", 4, {12}),
                    Contains("{ulysses: 3, ring: 2}, 6 ranks") && Contains("which is 4"));
  CHECK_THROWS_WITH(resolve("parallelism: {data: 2, sequence: 2}", 8, {4}), Contains("2 x 2 = 4"));
  CHECK_THROWS_WITH(resolve("parallelism: {data: 3}", 8, {4}), Contains("parallelism.data is 3"));
  CHECK_THROWS_WITH(resolve("training: {global_batch_size: 3}\nparallelism: {sequence: 1}", 2, {4}),
                    Contains("1 x 2 = 2"));
}

TEST_CASE("token order: zigzag when a ring or gather layer sees everything before it") {
  const auto order = [](const std::string& keys, std::int64_t window) {
    return resolve("parallelism: {" + keys + "}", 4, {4}, 4, window).token_order;
  };
  CHECK(order("sequence: 4", 0) == TokenOrder::contiguous);
  CHECK(order("sequence: {ring: 4}", 0) == TokenOrder::zigzag);
  CHECK(order("sequence: {gather_kv: 2, ulysses: 2}", 0) == TokenOrder::zigzag);
  CHECK(order("sequence: {ring: 4}", 5) == TokenOrder::contiguous);
  CHECK(order("sequence: {ring: 4}, token_order: contiguous", 0) == TokenOrder::contiguous);
  CHECK(order("sequence: {ring: 4}, token_order: zigzag", 5) == TokenOrder::zigzag);
  CHECK(order("sequence: {ring: 4}, token_order: balanced", 0) == TokenOrder::balanced);
  CHECK(order("sequence: 4, token_order: balanced", 0) == TokenOrder::contiguous);  // nothing to balance
  const AttentionLayer window{4, 5}, whole{4, 0};
  // Packed documents: balanced, unless a window would have to move what it does not see.
  const auto packed = [&](const std::string& split, const std::vector<AttentionLayer>& layers) {
    return resolve_parallelism(experiment("data: {packing: {mode: documents}}\nparallelism: {sequence: " + split + "}"),
                               4, 4, layers);
  };
  CHECK(packed("{ring: 4}", {whole, whole}).token_order == TokenOrder::balanced);
  CHECK(packed("{gather_kv: 2, ulysses: 2}", {whole}).token_order == TokenOrder::balanced);
  CHECK(packed("{ring: 4}", {whole}).decisions.back().find("auto: balanced") != std::string::npos);
  CHECK(packed("4", {whole}).token_order == TokenOrder::contiguous);
  CHECK(packed("{ring: 4}", {whole, window}).token_order == TokenOrder::zigzag);
  CHECK(packed("{ring: 4}", {window}).token_order == TokenOrder::contiguous);
  const auto asked = resolve_parallelism(experiment("parallelism: {sequence: {ring: 2}, token_order: balanced}"), 2, 2,
                                         {whole, window});
  CHECK(asked.token_order == TokenOrder::balanced);
  CHECK(asked.decisions.back().find("move all blocks") != std::string::npos);
  CHECK(resolve_parallelism(experiment("parallelism: {sequence: {ring: 2}}"), 2, 2, {window, whole}).token_order ==
        TokenOrder::zigzag);
}

TEST_CASE("layers with a window are split another way over the same ranks") {
  const std::vector<AttentionLayer> layers = {{6, 5}, {6, 5}, {4, 0}, {6, 7}};
  const auto resolved = [&](const std::string& keys, std::int64_t world = 4) {
    return resolve_parallelism(experiment("parallelism: {" + keys + "}"), world, world, layers);
  };
  const auto axes = [&](const std::string& keys) {
    Placement placement;
    place_ranks(resolved(keys), placement);
    return placement.window_axes;
  };
  using Axes = std::map<std::string, std::string>;
  const Axes none;
  CHECK(axes("sequence: {ulysses: 2, ring: 2}") == none);
  CHECK(axes("sequence: {ulysses: 2, ring: 2}, window_layers: {ulysses: 2, ring: 2}") == none);
  CHECK(axes("sequence: {ulysses: 2, ring: 2}, window_layers: {ulysses: 2, gather_kv: 2}") == Axes{{"ring", "gather"}});
  CHECK(axes("sequence: {ulysses: 2, ring: 2}, window_layers: {ring: 4}") ==
        Axes{{"gather", "ring"}, {"ulysses", "ring"}});
  CHECK(axes("sequence: 4, window_layers: {gather_kv: 4}") == Axes{{"ring", "gather"}, {"ulysses", "gather"}});
  CHECK(axes("sequence: {ulysses: 2, gather_kv: 2}, window_layers: {ulysses: 2, ring: 2}") == Axes{{"gather", "ring"}});
  {
    Placement placement;
    const ResolvedParallelism two = resolved("sequence: {ring: 2}, window_layers: 2", 2);
    place_ranks(two, placement);
    CHECK(placement.window_axes == Axes{{"gather", "ulysses"}, {"ring", "ulysses"}});
    CHECK(describe(two) == "2 ranks = data 1 x ring 2, zigzag order, layers with a window {ulysses: 2}, zero_stage 1");
  }
  // Each kind of layer has its own heads: 4 ranks divide those without a window only.
  const ResolvedParallelism other = resolved("window_layers: {gather_kv: 4}");
  CHECK(split(other) == Split{1, 1, 1, 4});
  REQUIRE(other.decisions.size() == 2);
  CHECK_THAT(other.decisions[0], Contains("{ulysses: 4, ring: 1}") && Contains("every layer without a window"));
  CHECK(other.decisions[1] == "attention: layers 0, 1, 3 (with a window) by {gather_kv: 4}, layer 2 by {ulysses: 4}");
  CHECK(other.token_order == TokenOrder::contiguous);  // no rank of a ring holds all keys' queries
  CHECK(resolved("sequence: {ring: 4}, window_layers: {gather_kv: 4}").token_order == TokenOrder::zigzag);
  CHECK_THAT(resolved("sequence: 2", 2).decisions.at(0), Contains("layers 0, 1, 3 (with a window) by {ulysses: 2}"));

  CHECK_THROWS_WITH(resolved("sequence: 4"), Contains("layer 0 has 6 query heads"));
  CHECK_THROWS_WITH(resolved("sequence: {ring: 4}, window_layers: 4"),
                    Contains("parallelism.window_layers is 4: layer 0 has 6 query heads") && Contains(": {ring: 4} ("));
  CHECK_THROWS_WITH(resolved("sequence: {ulysses: 2, ring: 2}, window_layers: {ring: 2}"),
                    Contains("2 ranks") && Contains("{ulysses: 2, ring: 2}, {ring: 4} (gather_kv"));
  CHECK_THROWS_WITH(resolved("sequence: {ring: 4}, window_layers: {ulysses: 2, ring: 2}"),
                    Contains("tokens stay where") && Contains(": {ring: 4} (gather_kv"));
  CHECK_THROWS_WITH(
      resolve_parallelism(experiment("parallelism: {sequence: 2, window_layers: {ring: 2}}"), 2, 2, {{4, 0}}),
      Contains("no layer of the model has a window"));
}

TEST_CASE("padded sequences divide over chunks, and the ranks' tokens are each token once") {
  const auto padded = [](const std::string& keys, std::int64_t world, std::int64_t length) {
    return padded_sequence(resolve("parallelism: {" + keys + "}", world, {12}), length);
  };
  CHECK(padded("sequence: 4", 4, 17) == 20);
  CHECK(padded("sequence: {ring: 3}", 3, 13) == 18);  // zigzag: 2 x 3
  CHECK(padded("sequence: {ring: 3}, token_order: contiguous", 3, 13) == 15);
  CHECK(padded("sequence: {ring: 2, ulysses: 3}", 6, 13) == 24);                         // 2 x lcm(2, 3)
  CHECK(padded("sequence: {ring: 3}, token_order: balanced", 3, 49) == 72);              // 8 x 3
  CHECK(padded("sequence: {ring: 2, ulysses: 3}, token_order: balanced", 6, 49) == 96);  // 2 x lcm(8, 3)
  CHECK(padded("sequence: {gather_kv: 2, ulysses: 2}", 4, 13) == 16);                    // 2 x lcm(2, 2)
  for (const std::string keys :
       {"sequence: 4", "sequence: {ring: 4}", "sequence: {ring: 2, ulysses: 2}", "sequence: {gather_kv: 2, ulysses: 3}",
        "data: 2, sequence: {ring: 3}, token_order: contiguous", "data: 2, sequence: {ring: 2, ulysses: 2}"}) {
    INFO(keys);
    const Experiment e = experiment("parallelism: {" + keys + "}");
    const std::int64_t world = e.parallelism.data.value_or(1) * e.parallelism.sequence->ranks();
    const ResolvedParallelism r = resolve_parallelism(e, world, world, {{12, 0}});
    Placement placement;
    const Mesh mesh = place_ranks(r, placement);
    CHECK(mesh.world() == world);
    const std::int64_t length = padded_sequence(r, 50);
    std::vector<std::int32_t> all, whole = whole_token_order(mesh, placement, length);
    for (int rank = 0; rank < static_cast<int>(r.sequence()); ++rank) {
      const auto mine = token_order(mesh, placement, length, rank);
      // Data-parallel groups hold the same tokens, of other sequences.
      CHECK(mine == token_order(mesh, placement, length, static_cast<int>(world - r.sequence()) + rank));
      all.insert(all.end(), mine.begin(), mine.end());
      // An outer rank's causal work, as the sum of its indices, is the same for all under zigzag.
      if (placement.token_order == TokenOrder::zigzag && r.ulysses == 1)
        CHECK(std::accumulate(mine.begin(), mine.end(), std::int64_t{0}) * r.sequence() == length * (length - 1) / 2);
    }
    CHECK(all == whole);
    std::sort(all.begin(), all.end());
    for (std::size_t i = 0; i < all.size(); ++i) REQUIRE(all[i] == static_cast<std::int32_t>(i));
    CHECK(static_cast<std::int64_t>(all.size()) == length);
  }
}

TEST_CASE("shard groups are whole pieces of the mesh") {
  const auto groups = [](const std::string& keys, std::int64_t world) {
    return shard_groups(resolve("parallelism: {" + keys + "}", world, {4}));
  };
  CHECK(groups("sequence: 1", 12) == std::vector<std::int64_t>{1, 2, 3, 4, 6, 12});
  CHECK(groups("sequence: {ulysses: 2, ring: 3}", 12) == std::vector<std::int64_t>{1, 2, 6, 12});
  CHECK(groups("sequence: {ulysses: 4, gather_kv: 2}", 8) == std::vector<std::int64_t>{1, 4, 8});

  struct Row {
    std::string keys;
    std::int64_t world;
    std::string mesh, shards, replicas;
  };
  for (const Row& row :
       {Row{"sequence: 2", 8, "dp=4, ulysses=2", "dp.ulysses", "-"},
        Row{"sequence: 2, shard_group: 8", 8, "dp=4, ulysses=2", "dp.ulysses", "-"},
        Row{"sequence: 2, shard_group: 2", 8, "dp=4, ulysses=2", "ulysses", "dp"},
        Row{"sequence: 2, shard_group: 4", 8, "dp_outer=2, dp_inner=2, ulysses=2", "dp_inner.ulysses", "dp_outer"},
        Row{"sequence: 1, shard_group: 2", 6, "dp_outer=3, dp_inner=2", "dp_inner", "dp_outer"},
        Row{"sequence: {ulysses: 2, ring: 2}, shard_group: 2", 8, "dp=2, ring=2, ulysses=2", "ulysses", "dp.ring"},
        Row{"sequence: {ulysses: 2, ring: 2}, shard_group: 4", 8, "dp=2, ring=2, ulysses=2", "ring.ulysses", "dp"},
        Row{"sequence: 2, shard_group: 1", 4, "dp=2, ulysses=2", "-", "dp.ulysses"}}) {
    INFO(row.keys);
    Placement placement;
    const Mesh mesh = place_ranks(resolve("parallelism: {" + row.keys + "}", row.world, {4}), placement);
    CHECK(mesh.text() == row.mesh);
    CHECK(mesh.text(state_axes(mesh, placement).shards) == row.shards);
    CHECK(mesh.text(state_axes(mesh, placement).replicas) == row.replicas);
    // Batches are split over all data-parallel ranks still, groups are neighbours.
    std::int64_t batches = 1;
    for (const auto& name : placement.batch_axes) batches *= mesh.size(mesh.find(name));
    CHECK(batches == resolve("parallelism: {" + row.keys + "}", row.world, {4}).data);
    const auto group = mesh.group(state_axes(mesh, placement).shards, 0);
    for (std::size_t i = 0; i < group.size(); ++i) CHECK(group[i] == static_cast<int>(i));
  }
  CHECK(describe(resolve("parallelism: {sequence: 2, shard_group: 2, zero_stage: 3}", 4, {4})) ==
        "4 ranks = data 2 x ulysses 2, zero_stage 3 in groups of 2");
}

TEST_CASE("shard groups and kept parameters that cannot be are refused with what can") {
  CHECK_THROWS_WITH(resolve("parallelism: {sequence: {ulysses: 2, ring: 2}, shard_group: 3}", 8, {4}),
                    Contains("parallelism.shard_group is 3") && Contains("these work: 1, 2, 4, 8"));
  CHECK_THROWS_WITH(resolve("parallelism: {sequence: 4, shard_group: 2}", 4, {4}), Contains("these work: 1, 4"));
  CHECK_THROWS_WITH(resolve("parallelism: {sequence: 2, shard_group: 16}", 8, {4}), Contains("these work: 1, 2, 4, 8"));
  CHECK_THROWS_WITH(resolve("parallelism: {sequence: 2, shard_group: 2, zero_stage: 0}", 4, {4}),
                    Contains("zero_stage is 0, which shards nothing"));
  for (const std::string kept : {"backward", "step"}) {
    CHECK_THROWS_WITH(resolve("parallelism: {zero_stage: 2, keep_gathered: " + kept + "}", 4, {4}),
                      Contains("parallelism.keep_gathered is " + kept) && Contains("only zero_stage 3"));
    CHECK_NOTHROW(resolve("parallelism: {zero_stage: 3, keep_gathered: " + kept + "}", 4, {4}));
  }
  CHECK_NOTHROW(resolve("parallelism: {zero_stage: 1, keep_gathered: never}", 4, {4}));
  CHECK_NOTHROW(resolve("parallelism: {zero_stage: 1, keep_gathered: auto}", 4, {4}));
}
