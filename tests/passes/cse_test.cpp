// cse: equal ops of one phase and layer become one; dead ops go.
#include <catch2/catch.hpp>

#include "ir/verifier.h"
#include "passes/pass.h"
#include "tests/passes/pass_text.h"

using namespace longhaul;
using test::op_names;

namespace {

const std::string header =
    "graph \"g\" mesh(dp=2)\n"
    "input %0 : float64[4, 8] @[dp, -] data \"x\"\n"
    "input %1 : float64[6, 8] @[-, -]flat(dp) parameter \"w\"\n";

Graph simplified(const std::string& lines) {
  Graph graph = parse_graph(header + lines);
  constexpr Stage stage = Stage::placed;
  REQUIRE(verify(graph, stage) == "");
  const CompileOptions compile;
  passes::common_subexpressions(graph, {compile, ProgramKind::accumulate_only});
  REQUIRE(verify(graph, stage) == "");
  return graph;
}

using Names = std::vector<std::string>;

}  // namespace

TEST_CASE("equal ops become one, and so do what uses them") {
  const Graph graph = simplified(
      "%2 : float64[6, 8] @[-, -] = reshard(%1) forward layer=0\n"
      "%3 : float64[6, 8] @[-, -] = reshard(%1) forward layer=0\n"
      "%4 : float64[6, 8] @[-, -] = scale(%2) {factor=2.0} forward layer=0\n"
      "%5 : float64[6, 8] @[-, -] = scale(%3) {factor=2.0} forward layer=0\n"
      "%6 : float64[6, 8] @[-, -] = add(%4, %5) forward layer=0\n"
      "output \"y\" %6\noutput \"z\" %5\n");
  CHECK(op_names(graph) == Names{"reshard", "scale", "add"});
  CHECK(graph.ops[2].operands == std::vector<ValueId>{4, 4});
  CHECK(graph.output("z") == 4);
}

TEST_CASE("a pin survives") {
  const Graph graph = simplified(
      "%2 : float64[6, 8] @[-, -] = reshard(%1) forward\n"
      "%3 : float64[6, 8] @[-, -] pinned=@[-, -] = reshard(%1) forward\n"
      "output \"y\" %2\noutput \"z\" %3\n");
  REQUIRE(graph.ops.size() == 1);
  CHECK(graph[graph.output("z")].pinned.has_value());
}

TEST_CASE("cse does not fire") {
  const auto two = [](const std::string& first, const std::string& second) {
    return simplified("%2 : " + first + "\n%3 : " + second + "\noutput \"y\" %2\noutput \"z\" %3\n").ops.size() == 2;
  };
  const std::string gather = "float64[6, 8] @[-, -] = reshard(%1) forward layer=1";
  CHECK_FALSE(two(gather, gather));
  CHECK(two(gather, "float64[6, 8] @[-, -] = reshard(%1) forward layer=2"));   // another layer
  CHECK(two(gather, "float64[6, 8] @[-, -] = reshard(%1) backward layer=1"));  // another phase
  CHECK(two(gather, "float64[6, 8] @[dp, -] = reshard(%1) forward layer=1"));  // another layout
  const std::string scale = "float64[4, 8] @[dp, -] = scale(%0) {factor=2.0} forward";
  CHECK(two(scale, "float64[4, 8] @[dp, -] = scale(%0) {factor=3.0} forward"));
  CHECK(two(scale, "float32[4, 8] @[dp, -] = scale(%0) {factor=2.0} forward"));
  CHECK(two("float64[4] @[dp] = einsum \"be,be->b\"(%0, %0) forward",
            "float64[8] @[-]sum(dp) = einsum \"be,be->e\"(%0, %0) forward"));  // another signature
}

TEST_CASE("dead ops go") {
  const Graph graph = simplified(
      "%2 : float64[6, 8] @[-, -] = reshard(%1) forward\n"
      "%3 : float64[6, 8] @[-, -] = scale(%2) {factor=2.0} forward\n"
      "%4 : float64[4, 8] @[dp, -] = scale(%0) {factor=2.0} forward\n"
      "output \"y\" %4\n");
  CHECK(op_names(graph) == Names{"scale"});
}
