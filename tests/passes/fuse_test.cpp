// fuse: an addend joins the op that makes the other one, never where it would count twice.
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
    "input %1 : float64[6, 8] @[-, -] parameter \"w\"\n"
    "input %2 : float64[4, 6] @[dp, -] data \"residual\"\n"
    "input %3 : float64[6, 8] @[-, -]sum(dp) accumulator \"sum\"\n"
    "input %4 : float32[4, 6] @[dp, -] data \"narrow\"\n"
    "input %5 : float64[6, 8] @[-, -] accumulator \"whole\"\n";

Graph fused(const std::string& lines) {
  Graph graph = parse_graph(header + lines);
  constexpr Stage stage = Stage::placed;
  REQUIRE(verify(graph, stage) == "");
  const CompileOptions compile;
  passes::fuse(graph, {compile, ProgramKind::accumulate_only});
  REQUIRE(verify(graph, stage) == "");
  return graph;
}

using Names = std::vector<std::string>;

}  // namespace

TEST_CASE("a residual joins the product") {
  for (const std::string operands : {"(%2, %6)", "(%6, %2)"}) {
    const Graph graph = fused(
        "%6 : float64[4, 6] @[dp, -] = einsum \"be,fe->bf\"(%0, %1) forward layer=1 by=model\n"
        "%7 : float64[4, 6] @[dp, -] = add" +
        operands + " forward layer=1 by=model\noutput \"y\" %7\n");
    REQUIRE(graph.ops.size() == 1);
    CHECK(print(graph, graph.ops[0]) ==
          "%7 : float64[4, 6] @[dp, -] = einsum_add \"be,fe,bf->bf\"(%0, %1, %2) forward layer=1 by=fuse");
  }
}

TEST_CASE("the fused product stands where the sum stood") {
  const Graph graph = fused(
      "%6 : float64[4, 6] @[dp, -] = einsum \"be,fe->bf\"(%0, %1) forward\n"
      "%7 : float64[4, 6] @[dp, -] = scale(%2) {factor=2.0} forward\n"
      "%8 : float64[4, 6] @[dp, -] = add(%6, %7) forward\noutput \"y\" %8\n");
  CHECK(op_names(graph) == Names{"scale", "einsum_add"});
}

TEST_CASE("fuse does not fire") {
  const Names kept{"einsum", "add"};
  SECTION("into a partial result") {
    CHECK(op_names(fused("%6 : float64[6, 8] @[-, -]sum(dp) = einsum \"bf,be->fe\"(%2, %0) backward\n"
                         "%7 : float64[6, 8] @[-, -]sum(dp) = add(%3, %6) backward\noutput \"g\" %7\n")) == kept);
  }
  SECTION("around a reduction") {
    CHECK(op_names(fused("%6 : float64[6, 8] @[-, -]sum(dp) = einsum \"bf,be->fe\"(%2, %0) backward\n"
                         "%7 : float64[6, 8] @[-, -] = reshard(%6) backward\n"
                         "%8 : float64[6, 8] @[-, -] = add(%5, %7) backward\noutput \"g\" %8\n")) ==
          Names{"einsum", "reshard", "add"});
  }
  SECTION("when the product is used twice") {
    CHECK(op_names(fused("%6 : float64[4, 6] @[dp, -] = einsum \"be,fe->bf\"(%0, %1) forward\n"
                         "%7 : float64[4, 6] @[dp, -] = add(%2, %6) forward\n"
                         "%8 : float64[4, 6] @[dp, -] = scale(%6) {factor=2.0} forward\n"
                         "output \"y\" %7\noutput \"z\" %8\n")) == Names{"einsum", "add", "scale"});
  }
  SECTION("when it is added to itself") {
    CHECK(op_names(fused("%6 : float64[4, 6] @[dp, -] = einsum \"be,fe->bf\"(%0, %1) forward\n"
                         "%7 : float64[4, 6] @[dp, -] = add(%6, %6) forward\noutput \"y\" %7\n")) == kept);
  }
  SECTION("when the product is an output") {
    CHECK(op_names(fused("%6 : float64[4, 6] @[dp, -] = einsum \"be,fe->bf\"(%0, %1) forward\n"
                         "%7 : float64[4, 6] @[dp, -] = add(%2, %6) forward\n"
                         "output \"y\" %7\noutput \"z\" %6\n")) == kept);
  }
  SECTION("when dtypes differ") {
    CHECK(op_names(fused("%6 : float64[4, 6] @[dp, -] = einsum \"be,fe->bf\"(%0, %1) forward\n"
                         "%7 : float64[4, 6] @[dp, -] = add(%4, %6) forward\noutput \"y\" %7\n")) == kept);
    CHECK(op_names(fused("%6 : float64[4, 6] @[dp, -] = einsum \"be,fe->bf\"(%0, %1) forward\n"
                         "%7 : float32[4, 6] @[dp, -] = add(%2, %6) forward\noutput \"y\" %7\n")) == kept);
  }
  SECTION("in a sum of three") {
    CHECK(op_names(fused("%6 : float64[4, 6] @[dp, -] = einsum \"be,fe->bf\"(%0, %1) forward\n"
                         "%7 : float64[4, 6] @[dp, -] = add(%2, %6, %2) forward\noutput \"y\" %7\n")) == kept);
  }
}

TEST_CASE("of two products in a sum one is fused") {
  const Graph graph = fused(
      "%6 : float64[4, 6] @[dp, -] = einsum \"be,fe->bf\"(%0, %1) forward\n"
      "%7 : float64[4, 6] @[dp, -] = einsum \"be,fe->bf\"(%0, %1) forward\n"
      "%8 : float64[4, 6] @[dp, -] = add(%6, %7) forward\noutput \"y\" %8\n");
  CHECK(op_names(graph) == Names{"einsum", "einsum_add"});
}

namespace {
const std::string gradients_header =
    "graph \"g\" mesh(dp=2)\n"
    "input %0 : float64[4, 2, 8] @[dp, -, -] data \"x\"\n"
    "input %1 : float64[8] @[-] parameter \"w\"\n"
    "input %2 : float64[4, 2, 8] @[dp, -, -] data \"dy\"\n"
    "input %3 : float64[4, 2, 8] @[dp, -, -] data \"residual\"\n"
    "input %4 : int32[4, 2] @[dp, -] data \"tokens\"\n"
    "input %5 : int32[4, 2] @[-, -] data \"all_tokens\"\n"
    "input %6 : float64[4, 2, 8] @[-, -, -] data \"all_dy\"\n"
    "input %7 : float64[9, 8] @[-, -] accumulator \"table\"\n"
    "input %8 : float64[9, 8] @[-, -]sum(dp) accumulator \"parts\"\n";

Graph fused_gradients(const std::string& lines) {
  Graph graph = parse_graph(gradients_header + lines);
  constexpr Stage stage = Stage::placed;
  REQUIRE(verify(graph, stage) == "");
  const CompileOptions compile;
  passes::fuse(graph, {compile, ProgramKind::accumulate_only});
  REQUIRE(verify(graph, stage) == "");
  return graph;
}
}  // namespace

TEST_CASE("an embedding's gradient is added to a whole table, never to a partial one") {
  const Graph graph = fused_gradients(
      "%9 : float64[9, 8] @[-, -] = embedding_gradient(%5, %6) backward\n"
      "%10 : float64[9, 8] @[-, -] = add(%7, %9) backward\noutput \"g\" %10\n");
  REQUIRE(graph.ops.size() == 1);
  CHECK(print(graph, graph.ops[0]) ==
        "%10 : float64[9, 8] @[-, -] = embedding_gradient_add(%5, %6, %7) backward by=fuse");
  CHECK(op_names(fused_gradients("%9 : float64[9, 8] @[-, -]sum(dp) = embedding_gradient(%4, %2) backward\n"
                                 "%10 : float64[9, 8] @[-, -]sum(dp) = add(%8, %9) backward\noutput \"g\" %10\n")) ==
        Names{"embedding_gradient", "add"});
}
