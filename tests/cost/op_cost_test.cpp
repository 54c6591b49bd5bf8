// Seconds of ops, worked out by hand on a machine of round numbers.
#include <catch2/catch.hpp>

#include "base/error.h"
#include "cost/step_cost.h"
#include "ir/op_definition.h"
#include "tests/cost/simple_profile.h"

using namespace longhaul;
using Catch::Matchers::Contains;

namespace {

OpCost cost_of(const std::string& text, const MachineUse& use = {.ranks_per_host = 4},
               const MachineProfile& profile = test::simple_profile()) {
  const Graph graph = parse_graph(text);
  REQUIRE(graph.ops.size() == 1);
  return CostModel(profile, use).cost(graph, graph.ops[0]);
}

std::string product(const std::string& dtype, int n) {
  return "graph \"g\" mesh(a=2)\ninput %0 : " + dtype + "[64, 128] @[a, -] data \"x\"\ninput %1 : " + dtype + "[128, " +
         std::to_string(n) + "] @[-, -] data \"w\"\n%2 : " + dtype + "[64, " + std::to_string(n) +
         "] @[a, -] = einsum \"sk,kn->sn\"(%0, %1) forward\noutput \"y\" %2\n";
}

// Queries of 64 tokens in `n` pieces, all keys.
std::string attention(const std::string& attributes, const char* op = "attention") {
  const bool backward = std::string(op) != "attention";
  std::string text =
      "graph \"g\" mesh(a=2)\n"
      "input %0 : bfloat16[1, 64, 4, 8] @[-, -, a, -] data \"q\"\n"
      "input %1 : bfloat16[1, 64, 2, 8] @[-, -, a, -] data \"k\"\n"
      "input %2 : bfloat16[1, 64, 2, 8] @[-, -, a, -] data \"v\"\n"
      "input %3 : int32[1, 64] @[-, -] data \"index\"\n"
      "input %4 : int32[1, 64] @[-, -] data \"key_start\"\n";
  if (backward)
    text +=
        "input %5 : float32[1, 64, 4] @[-, -, a] data \"delta\"\ninput %6 : float32[1, 4, 64] @[-, a, -] data \"lse\"\n"
        "input %7 : bfloat16[1, 64, 4, 8] @[-, -, a, -] data \"dy\"\n"
        "%8 : bfloat16[1, 64, 4, 8] @[-, -, a, -], %9 : bfloat16[1, 64, 2, 8] @[-, -, a, -], %10 : bfloat16[1, 64, 2, "
        "8] @[-, -, a, -] = attention_gradient(%0, %1, %2, %3, %3, %4, %5, %6, %7) {" +
        attributes + "} backward\noutput \"dq\" %8\n";
  else
    text +=
        "%5 : bfloat16[1, 64, 4, 8] @[-, -, a, -], %6 : float32[1, 4, 64] @[-, a, -] = attention(%0, %1, %2, %3, %3, "
        "%4) {" +
        attributes + "} forward\noutput \"y\" %5\n";
  return text;
}

// A collective of 4096 float32 over `axis` of two axes of two ranks, major first: hosts of two ranks part axis a.
std::string collective(const std::string& from, const std::string& op, const std::string& attributes,
                       const std::string& to) {
  return "graph \"g\" mesh(a=2, b=2)\ninput %0 : float32[1, 64, 64] @" + from +
         " data \"x\"\n%1 : float32[1, 64, 64] @" + to + " = " + op + "(%0) {" + attributes +
         "} forward\noutput \"y\" %1\n";
}

}  // namespace

TEST_CASE("a product takes its FLOPs over the peak and the efficiency of its size, or the time of its bytes") {
  // 2 · 32 · 128 · 64 FLOPs on a rank, efficiency 0.5 + 0.5 · 524288 / 1e6.
  const double flops = 2.0 * 32 * 128 * 64, efficiency = 0.5 + 0.5 * flops / 1e6;
  const OpCost cost = cost_of(product("bfloat16", 64));
  CHECK(cost.work == Work::products);
  // Its bytes take longer: 32·128 + 128·64 + 32·64 numbers of two bytes.
  const double bytes = 2.0 * (32 * 128 + 128 * 64 + 32 * 64);
  CHECK(cost.seconds == Approx(std::max(flops / (1e12 * efficiency), bytes / 1e10)));
  MachineProfile fast_memory = test::simple_profile();
  fast_memory.bandwidth = 1e13;
  CHECK(cost_of(product("bfloat16", 64), {}, fast_memory).seconds == Approx(flops / (1e12 * efficiency)));
  CHECK(cost_of(product("bfloat16", 4096), {}, fast_memory).seconds == Approx(64 * flops / 1e12));  // beyond the curve
  CHECK(cost_of(product("float32", 64), {}, fast_memory).seconds == Approx(flops / 5e11));
  MachineProfile slow_start = fast_memory;
  slow_start.launch = 0.5;
  CHECK(cost_of(product("float32", 64), {}, slow_start).seconds == Approx(0.5 + flops / 5e11));
  CHECK_THROWS_WITH(cost_of(product("float64", 64)),
                    Contains("the profile round has no products of float64, which einsum computes: set training.dtype "
                             "to one that it has, or add products.float64 to it"));
}

TEST_CASE("attention costs the pairs that are seen, its tiles, and five products backward for two forward") {
  MachineProfile profile = test::simple_profile();
  profile.bandwidth = 1e13;
  const double per_key = 4.0 * 64 * 2 * 8;  // two of four heads
  const auto seconds = [&](const std::string& attributes, const MachineUse& use = {}, const char* op = "attention") {
    return cost_of(attention(attributes, op), use, profile).seconds;
  };
  CHECK(cost_of(attention("scale=0.5")).work == Work::attention);
  CHECK(seconds("scale=0.5") == Approx(per_key * (32 + 0.5) / 1e11));
  CHECK(seconds("scale=0.5", {}, "attention_gradient") == Approx(2.5 * per_key * (32 + 0.5) / 5e10));
  // A window of 16: at both of its ends a tile is computed whole.
  CHECK(seconds("scale=0.5, window=16") == Approx(per_key * (16 + 1) / 1e11));
  // Documents of 16 tokens: (16 + 1) / (64 + 1) of the pairs.
  CHECK(seconds("scale=0.5", {.document = 16}) == Approx(per_key * (32.0 * 17 / 65 + 0.5) / 1e11));
  CHECK(seconds("scale=0.5", {.document = 1000}) == seconds("scale=0.5"));
  CHECK(seconds("scale=0.5", {.attention_share = 1.5}) == Approx(per_key * (48 + 0.5) / 1e11));
  profile.attention.at(DType::bfloat16).tile = 32;
  CHECK(seconds("scale=0.5") == Approx(per_key * (32 + 16) / 1e11));
  profile.attention.clear();
  CHECK_THROWS_WITH(seconds("scale=0.5"), Contains("has no attention in bfloat16"));
}

TEST_CASE("the keys that a token sees on average") {
  const auto counted = [](int keys, int window, int document) {
    double sum = 0;
    for (int q = 0; q < keys; ++q) {
      const int begin = document > 0 ? q / document * document : 0;
      sum += std::min(q - begin + 1, window > 0 ? window : keys);
    }
    return sum / keys;
  };
  for (const int window : {0, 1, 5, 16, 64, 100})
    for (const int document : {0, 1, 8, 16, 64})
      CHECK(mean_visible_keys(64, window, document) == Approx(counted(64, window, document)));
}

TEST_CASE("what memory brings costs its bytes, by the op's own rate where there is one, and only what is touched") {
  const std::string norm =
      "graph \"g\" mesh(a=2)\ninput %0 : float32[2, 64, 32] @[-, a, -] data \"x\"\ninput %1 : float32[2, 64, 32] @[-, "
      "a, "
      "-] data \"y\"\n%2 : float32[2, 64, 32] @[-, a, -] = add(%0, %1) forward\noutput \"z\" %2\n";
  const double bytes = 4.0 * 3 * 2 * 32 * 32;
  CHECK(cost_of(norm).work == Work::memory);
  CHECK(cost_of(norm).seconds == Approx(bytes / 1e10));
  MachineProfile profile = test::simple_profile();
  profile.op_bandwidth["add"] = 1e8;
  CHECK(cost_of(norm, {}, profile).seconds == Approx(bytes / 1e8));
  const std::string rows =
      "graph \"g\" mesh(a=2)\ninput %0 : int32[1, 64] @[-, a] data \"tokens\"\ninput %1 : float32[1000000, 32] @[-, -] "
      "data \"table\"\n%2 : float32[1, 64, 32] @[-, a, -] = embedding(%0, %1) forward\noutput \"y\" %2\n";
  CHECK(cost_of(rows).seconds == Approx(2.0 * 4 * 32 * 32 / 1e10));
}

TEST_CASE("collectives cost latency and bytes on the links that they cross") {
  const MachineUse hosts_of_two{.ranks_per_host = 2};
  const double quarter = 4096, half = 8192, all = 16384;  // bytes
  const auto on = [&](const std::string& text, const MachineUse& use = {.ranks_per_host = 2}) {
    return cost_of(text, use);
  };
  // Axis b is within a host, axis a between two.
  const OpCost inside = on(collective("[-, b, -]", "all_gather", "axes=<b>, dimension=1", "[-, -, -]"));
  CHECK(inside.work == Work::host_links);
  CHECK(inside.seconds == Approx(0.001 + half / 1e9));
  const OpCost across = on(collective("[-, a, -]", "all_gather", "axes=<a>, dimension=1", "[-, -, -]"));
  CHECK(across.work == Work::network);
  CHECK(across.seconds == Approx(0.01 + half / 1e8));
  // Over both, what another host has is fetched once by each of the two ranks here, half each, and handed on.
  CHECK(on(collective("[-, a.b, -]", "all_gather", "axes=<a.b>, dimension=1", "[-, -, -]")).seconds ==
        Approx(2 * 0.01 + std::max(3 * quarter / 1e9, quarter / 1e8)));
  // The same on one host.
  CHECK(on(collective("[-, a.b, -]", "all_gather", "axes=<a.b>, dimension=1", "[-, -, -]"), {.ranks_per_host = 4})
            .seconds == Approx(2 * 0.001 + 3 * quarter / 1e9));
  CHECK(on(collective("[-, -, -]sum(b)", "reduce_scatter", "axes=<b>, dimension=1", "[-, b, -]")).seconds ==
        Approx(0.001 + half / 5e8));
  CHECK(on(collective("[-, -, -]sum(b)", "all_reduce", "axes=<b>", "[-, -, -]")).seconds == Approx(0.001 + all / 5e8));
  // Half of what a rank has goes to the other; what lies in pieces is copied on either side.
  CHECK(on(collective("[-, b, -]", "all_to_all", "axes=<b>, dimension=1, split=2", "[-, -, b]")).seconds ==
        Approx(0.001 + quarter / 1e9 + 2 * half / 1e10));
  CHECK(on(collective("[-, b, -]", "shift", "axes=<b>, dimension=1, by=1", "[-, b+1, -]")).seconds ==
        Approx(0.001 + half / 1e9));
  CHECK(on(collective("[-, -, -]", "slice", "axes=<b>, dimension=1", "[-, b, -]")).work == Work::memory);
  MachineProfile alone = test::simple_profile();
  alone.network.reset();
  CHECK(cost_of(collective("[-, b, -]", "all_gather", "axes=<b>, dimension=1", "[-, -, -]"), hosts_of_two, alone)
            .seconds == inside.seconds);
  CHECK_THROWS_WITH(
      cost_of(collective("[-, a, -]", "all_gather", "axes=<a>, dimension=1", "[-, -, -]"), hosts_of_two, alone),
      Contains("the profile round has no links.network, and 2 ranks of a collective are on hosts of 2"));
}

TEST_CASE("a reshard costs the collectives that it becomes, tensors that travel together one latency") {
  const MachineUse use{.ranks_per_host = 2};
  const auto reshard = [&](const std::string& from, const std::string& to) {
    return cost_of(collective(from, "reshard", "", to), use).seconds;
  };
  CHECK(reshard("[-, b, -]", "[-, -, b]") ==
        cost_of(collective("[-, b, -]", "all_to_all", "axes=<b>, dimension=1, split=2", "[-, -, b]"), use).seconds);
  // A sum over both axes and a split by one of them: two collectives.
  CHECK(reshard("[-, -, -]sum(a.b)", "[-, b, -]") >
        cost_of(collective("[-, -, -]sum(b)", "reduce_scatter", "axes=<b>, dimension=1", "[-, b, -]"), use).seconds);
  const std::string two =
      "graph \"g\" mesh(a=2, b=2)\ninput %0 : float32[1, 64, 64] @[-, b, -] data \"x\"\ninput %1 : float32[1, 64, 64] "
      "@[-, b, -] data \"y\"\n%2 : float32[1, 64, 64] @[-, -, -], %3 : float32[1, 64, 64] @[-, -, -] = all_gather(%0, "
      "%1) {axes=<b>, dimension=1} forward\noutput \"z\" %2\n";
  CHECK(cost_of(two, use).seconds == Approx(0.001 + 2 * 8192 / 1e9));
}

TEST_CASE("a program costs the sum of its ops") {
  const Graph graph = parse_graph(product("bfloat16", 64));
  const MachineProfile profile = test::simple_profile();
  const CostModel model(profile, {});
  Graph twice = graph;
  twice.ops.push_back(twice.ops[0]);
  const ProgramCost one = program_cost(model, graph), two = program_cost(model, twice);
  CHECK(one.total() == one.seconds[static_cast<std::size_t>(Work::products)]);
  CHECK(two.total() == Approx(2 * one.total()));
  CHECK(two.ops.at("einsum") == Approx(2 * one.total()));
  ProgramCost sum;
  sum.add(one, 3);
  CHECK(sum.total() == Approx(3 * one.total()));
}
