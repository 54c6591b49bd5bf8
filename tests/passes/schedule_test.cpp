// schedule: what grows memory waits for its use; nothing moves past a use.
#include <catch2/catch.hpp>

#include "ir/op_definition.h"
#include "ir/verifier.h"
#include "passes/pass.h"
#include "tests/passes/pass_text.h"

using namespace longhaul;

namespace {

const std::string header =
    "graph \"g\" mesh(dp=1)\n"
    "input %0 : float64[4] @[-] parameter \"x\"\n"
    "input %1 : float64[8] @[-] parameter \"y\"\n";

Graph scheduled(const std::string& lines) {
  Graph graph = parse_graph(header + lines);
  REQUIRE(verify(graph, Stage::lowered) == "");
  const CompileOptions options;
  passes::schedule(graph, {options, ProgramKind::evaluate});
  REQUIRE(verify(graph, Stage::lowered) == "");
  return graph;
}

// By their first result.
std::vector<ValueId> order(const Graph& graph) {
  std::vector<ValueId> results;
  for (const Op& op : graph.ops) results.push_back(op.results[0]);
  return results;
}

}  // namespace

TEST_CASE("an op that grows memory waits until just before its use") {
  const Graph graph = scheduled(
      "%2 : float64[4, 8] @[-, -] = einsum \"b,c->bc\"(%0, %1) forward\n"
      "%3 : float64[] @[] = sum_squares(%0) forward\n"
      "%4 : float64[] @[] = sum_squares(%1) forward\n"
      "%5 : float64[] @[] = sum_squares(%2) forward\n"
      "output \"a\" %3\noutput \"b\" %4\noutput \"c\" %5\n");
  CHECK(order(graph) == std::vector<ValueId>{3, 4, 2, 5});
}

TEST_CASE("an op that frees as much as it makes stays") {
  const Graph graph = scheduled(
      "%2 : float64[4, 8] @[-, -] = einsum \"b,c->bc\"(%0, %1) forward\n"
      "%3 : float64[4, 8] @[-, -] = scale(%2) {factor=2.0} forward\n"
      "%4 : float64[] @[] = sum_squares(%1) forward\n"
      "%5 : float64[] @[] = sum_squares(%3) forward\n"
      "output \"b\" %4\noutput \"c\" %5\n");
  CHECK(order(graph) == std::vector<ValueId>{2, 3, 4, 5});
}

TEST_CASE("an output is made where it stands") {
  const Graph graph = scheduled(
      "%2 : float64[4, 8] @[-, -] = einsum \"b,c->bc\"(%0, %1) forward\n"
      "%3 : float64[] @[] = sum_squares(%0) forward\n"
      "%4 : float64[] @[] = sum_squares(%2) forward\n"
      "output \"a\" %2\noutput \"b\" %3\noutput \"c\" %4\n");
  CHECK(order(graph) == std::vector<ValueId>{2, 3, 4});
}

TEST_CASE("a waiting op waits no longer than its earliest user, wherever that has gone") {
  // %2's first user %4 waits for %6 itself; %5 uses %2 before that.
  const Graph graph = scheduled(
      "%2 : float64[4, 8] @[-, -] = einsum \"b,c->bc\"(%0, %1) forward\n"
      "%3 : float64[] @[] = sum_squares(%0) forward\n"
      "%4 : float64[4, 8, 8] @[-, -, -] = einsum \"bc,d->bcd\"(%2, %1) forward\n"
      "%5 : float64[] @[] = sum_squares(%2) forward\n"
      "%6 : float64[] @[] = sum_squares(%4) forward\n"
      "output \"a\" %3\noutput \"b\" %5\noutput \"c\" %6\n");
  CHECK(order(graph) == std::vector<ValueId>{3, 2, 5, 4, 6});
}

TEST_CASE("chains of waiting ops keep their order") {
  const Graph graph = scheduled(
      "%2 : float64[4, 8] @[-, -] = einsum \"b,c->bc\"(%0, %1) forward\n"
      "%3 : float64[4, 8, 8] @[-, -, -] = einsum \"bc,d->bcd\"(%2, %1) forward\n"
      "%4 : float64[] @[] = sum_squares(%0) forward\n"
      "%5 : float64[] @[] = sum_squares(%1) forward\n"
      "%6 : float64[] @[] = sum_squares(%3) forward\n"
      "output \"a\" %4\noutput \"b\" %5\noutput \"c\" %6\n");
  CHECK(order(graph) == std::vector<ValueId>{4, 5, 2, 3, 6});
}
