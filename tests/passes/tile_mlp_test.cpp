// tile_mlp: what is as wide as an MLP exists for the rows of one tile; and where it must leave a layer alone.
#include <catch2/catch.hpp>

#include "ir/verifier.h"
#include "passes/pass.h"
#include "tests/passes/pass_text.h"

using namespace longhaul;

namespace {

// x (made by another op, so that its buffer may be taken over), its norm, and an MLP with its residual.
const std::string layer =
    "graph \"g\" mesh(a=2)\n"
    "input %0 : float32[1, 32, 4] @[-, a, -] data \"z\"\n"
    "input %1 : float32[4] @[-] parameter \"norm\"\n"
    "input %2 : float32[8, 4] @[-, -] parameter \"gate\"\n"
    "input %3 : float32[8, 4] @[-, -] parameter \"up\"\n"
    "input %4 : float32[4, 8] @[-, -] parameter \"down\"\n"
    "input %12 : float32[4, 4] @[-, -] parameter \"mix\"\n"
    "%5 : float32[1, 32, 4] @[-, a, -] = einsum \"bsd,ed->bse\"(%0, %12) forward layer=0\n"
    "%6 : float32[1, 32, 4] @[-, a, -] = rms_norm(%5, %1) {epsilon=1e-05} forward layer=0\n"
    "%7 : float32[1, 32, 8] @[-, a, -] = einsum \"bse,fe->bsf\"(%6, %2) forward layer=0\n"
    "%8 : float32[1, 32, 8] @[-, a, -] = einsum \"bse,fe->bsf\"(%6, %3) forward layer=0\n"
    "%9 : float32[1, 32, 8] @[-, a, -] = gated_activation(%7, %8) {kind=\"silu\"} forward layer=0\n"
    "%10 : float32[1, 32, 4] @[-, a, -] = einsum_add \"bsf,ef,bse->bse\"(%9, %4, %5) forward layer=0\n"
    "%11 : float32[4, 8] @[-, -]sum(a) = einsum \"bse,bsf->ef\"(%5, %9) forward layer=0\n"
    "output \"y\" %10\n"
    "output \"dw\" %11\n";

Schedule tiles(std::int64_t rows) {
  Schedule schedule;
  schedule.tile_mlp = true;
  schedule.tile_rows = rows;
  return schedule;
}
Graph tiled(const std::string& text, const Schedule& schedule, ProgramKind kind = ProgramKind::accumulate_only) {
  Graph graph = parse_graph(text);
  REQUIRE(verify(graph, Stage::placed) == "");
  CompileOptions options;
  options.schedule = schedule;
  passes::tile_mlp(graph, {options, kind});
  CHECK(verify(graph, Stage::placed) == "");
  return graph;
}
std::string replaced(std::string text, const std::string& from, const std::string& to) {
  REQUIRE(text.find(from) != std::string::npos);
  return text.replace(text.find(from), from.size(), to);
}

}  // namespace

TEST_CASE("an MLP goes through its rows in tiles, and gives them the place of what is read no more") {
  // Wide are three values of twice the width: six tiles of 16 / 6 rows, in blocks of two.
  const Graph graph = tiled(layer, tiles(2));
  CHECK(test::count(graph, "put_rows") == 8);
  CHECK(test::count(graph, "rms_norm") == 8);
  CHECK(test::count(graph, "gated_activation") == 8);
  CHECK(test::count(graph, "einsum_accumulate") == 7);
  // A tile of 6 rows, and one of what is left.
  const std::string text = print(tiled(layer, tiles(6)));
  INFO(text);
  const Graph two = parse_graph(text);
  CHECK(test::op_names(two) == std::vector<std::string>{"einsum", "take_rows", "rms_norm", "einsum", "einsum",
                                                        "gated_activation", "einsum_add", "einsum", "put_rows",
                                                        "take_rows", "rms_norm", "einsum", "einsum", "gated_activation",
                                                        "einsum_add", "einsum_accumulate", "put_rows"});
  CHECK(two.ops[1].attributes.integer("from") == 0);
  CHECK(two.ops[1].attributes.integer("blocks") == 2);
  CHECK(two[two.ops[1].results[0]].shape == Shape{1, 12, 4});
  CHECK(two.ops[9].attributes.integer("from") == 6);
  CHECK(two[two.ops[9].results[0]].shape == Shape{1, 20, 4});
  // The second tile is read from where the first one's result was put, so that x's buffer can be taken over.
  CHECK(two.ops[8].operands[0] == two.ops[0].results[0]);
  CHECK(two.ops[9].operands[0] == two.ops[8].results[0]);
  CHECK(two.output("y") == two.ops[16].results[0]);
  // The sum over rows goes on from what it is so far, each rank its part.
  CHECK(two.ops[15].operands[2] == two.ops[7].results[0]);
  CHECK(test::layout(two, two.ops[15].results[0]) == "[-, -]sum(a)");
  CHECK(two.output("dw") == two.ops[15].results[0]);
}

TEST_CASE("an MLP stays whole where nobody asks, where rows are few, and where something wide must exist") {
  const auto untouched = [&](const std::string& text, const Schedule& schedule,
                             ProgramKind kind = ProgramKind::accumulate_only) {
    return print(tiled(text, schedule, kind)) == print(parse_graph(text));
  };
  CHECK(untouched(layer, Schedule()));
  CHECK(untouched(layer, tiles(2), ProgramKind::evaluate));
  CHECK(untouched(layer, tiles(9)));
  CHECK_FALSE(untouched(layer, tiles(8)));
  CHECK(untouched(layer + "output \"h\" %9\n", tiles(2)));  // kept for others
  CHECK(untouched(replaced(layer, "output \"y\"",
                           "%13 : float32[8] @[-]sum(a) = sum_leading \"bsf->f\"(%7) forward "
                           "layer=0\noutput \"db\" %13\noutput \"y\""),
                  tiles(2)));  // a sum over rows that is no product
  std::string two = layer;
  for (std::size_t at; (at = two.find("[1, 32")) != std::string::npos;) two.replace(at, 6, "[2, 32");
  CHECK(untouched(two, tiles(2)));  // sums run over sequences first
}

TEST_CASE("a norm that others read, and inputs that live on, stay") {
  const Graph graph =
      tiled(replaced(layer, "output \"y\"", "output \"n\" %6\noutput \"x\" %5\noutput \"y\""), tiles(8));
  CHECK(test::count(graph, "rms_norm") == 1);
  CHECK(test::count(graph, "put_rows") == 2);
  CHECK(graph.output("x") == graph.ops[0].results[0]);
}
