// place_casts: a cast stands on the side of a move where fewer bytes cross it, and never before a sum.
#include <catch2/catch.hpp>

#include "ir/verifier.h"
#include "passes/pass.h"
#include "tests/passes/pass_text.h"
#include "tests/passes/small_models.h"

using namespace longhaul;

namespace {

const std::string header =
    "graph \"g\" mesh(r=2, u=2)\n"
    "input %0 : float32[1, 8, 4, 6] @[-, u, -, -]sum(r) data \"partial\"\n"
    "input %1 : float32[1, 8, 4, 6] @[-, r.u, -, -] data \"wide\"\n"
    "input %2 : bfloat16[1, 8, 4, 6] @[-, r.u, -, -] data \"narrow\"\n";

std::string placed(const std::string& lines) {
  Graph graph = parse_graph(header + lines);
  REQUIRE(verify(graph, Stage::lowered) == "");
  const CompileOptions options;
  passes::place_casts(graph, {options, ProgramKind::evaluate});
  REQUIRE(verify(graph, Stage::lowered) == "");
  const std::string text = print(graph);
  return text.substr(text.find('\n', text.rfind("\ninput ") + 1) + 1);
}

void stays(const std::string& lines) {
  CHECK(placed(lines) == lines);
}

}  // namespace

TEST_CASE("a sum is rounded right after it, before it is exchanged") {
  CHECK(placed("%3 : float32[1, 8, 4, 6] @[-, u.r, -, -] = reduce_scatter(%0) {axes=<r>, dimension=1} backward\n"
               "%4 : float32[1, 8, 4, 6] @[-, u, r, -] = all_to_all(%3) {axes=<r>, dimension=1, split=2} backward\n"
               "%5 : bfloat16[1, 8, 4, 6] @[-, u, r, -] = cast(%4) backward by=choose_attention\n"
               "output \"y\" %5\n") ==
        "%3 : float32[1, 8, 4, 6] @[-, u.r, -, -] = reduce_scatter(%0) {axes=<r>, dimension=1} backward\n"
        "%6 : bfloat16[1, 8, 4, 6] @[-, u.r, -, -] = cast(%3) backward by=choose_attention\n"
        "%5 : bfloat16[1, 8, 4, 6] @[-, u, r, -] = all_to_all(%6) {axes=<r>, dimension=1, split=2} backward\n"
        "output \"y\" %5\n");
}

TEST_CASE("a rounding passes a chain of moves, and slices on its way") {
  CHECK(placed("%3 : float32[1, 8, 4, 6] @[-, r, u, -] = all_to_all(%1) {axes=<u>, dimension=1, split=2} forward\n"
               "%4 : float32[1, 8, 4, 6] @[-, -, u, -] = all_gather(%3) {axes=<r>, dimension=1} forward\n"
               "%5 : float32[1, 8, 4, 6] @[-, -, u, r] = slice(%4) {axes=<r>, dimension=3} forward\n"
               "%6 : bfloat16[1, 8, 4, 6] @[-, -, u, r] = cast(%5) forward\n"
               "output \"y\" %6\n") ==
        "%7 : bfloat16[1, 8, 4, 6] @[-, r.u, -, -] \"wide\" = cast(%1) forward\n"
        "%3 : bfloat16[1, 8, 4, 6] @[-, r, u, -] = all_to_all(%7) {axes=<u>, dimension=1, split=2} forward\n"
        "%4 : bfloat16[1, 8, 4, 6] @[-, -, u, -] = all_gather(%3) {axes=<r>, dimension=1} forward\n"
        "%6 : bfloat16[1, 8, 4, 6] @[-, -, u, r] = slice(%4) {axes=<r>, dimension=3} forward\n"
        "output \"y\" %6\n");
}

TEST_CASE("what is widened is moved first") {
  CHECK(placed("%3 : float32[1, 8, 4, 6] @[-, r.u, -, -] = cast(%2) forward\n"
               "%4 : float32[1, 8, 4, 6] @[-, r, u, -] = all_to_all(%3) {axes=<u>, dimension=1, split=2} forward\n"
               "%5 : float32[1, 8, 4, 6] @[-, -, u, -] = all_gather(%4) {axes=<r>, dimension=1} forward\n"
               "%6 : float64[] @[]sum(u) = sum_squares(%5) forward\n"
               "output \"y\" %6\n") ==
        "%4 : bfloat16[1, 8, 4, 6] @[-, r, u, -] = all_to_all(%2) {axes=<u>, dimension=1, split=2} forward\n"
        "%7 : bfloat16[1, 8, 4, 6] @[-, -, u, -] = all_gather(%4) {axes=<r>, dimension=1} forward\n"
        "%5 : float32[1, 8, 4, 6] @[-, -, u, -] = cast(%7) forward\n"
        "%6 : float64[] @[]sum(u) = sum_squares(%5) forward\n"
        "output \"y\" %6\n");
}

TEST_CASE("place_casts does not fire") {
  // A sum: it accumulates in float32 and rounds once.
  stays(
      "%3 : float32[1, 8, 4, 6] @[-, u.r, -, -] = reduce_scatter(%0) {axes=<r>, dimension=1} backward\n"
      "%4 : bfloat16[1, 8, 4, 6] @[-, u.r, -, -] = cast(%3) backward\n"
      "output \"y\" %4\n");
  stays(
      "%3 : float32[1, 8, 4, 6] @[-, u, -, -] = all_reduce(%0) {axes=<r>} backward\n"
      "%4 : bfloat16[1, 8, 4, 6] @[-, u, -, -] = cast(%3) backward\n"
      "output \"y\" %4\n");
  // What moved is read in full precision too.
  stays(
      "%3 : float32[1, 8, 4, 6] @[-, r, u, -] = all_to_all(%1) {axes=<u>, dimension=1, split=2} forward\n"
      "%4 : bfloat16[1, 8, 4, 6] @[-, r, u, -] = cast(%3) forward\n"
      "output \"y\" %4\noutput \"x\" %3\n");
  // It is narrow already: rounded before, widened after.
  stays(
      "%3 : bfloat16[1, 8, 4, 6] @[-, r.u, -, -] = cast(%1) forward\n"
      "%4 : bfloat16[1, 8, 4, 6] @[-, r, u, -] = all_to_all(%3) {axes=<u>, dimension=1, split=2} forward\n"
      "%5 : float32[1, 8, 4, 6] @[-, r, u, -] = cast(%4) forward\n"
      "output \"y\" %5\n");
  // Nothing crosses ranks: fewer elements are rounded after a slice.
  stays(
      "%3 : float32[1, 8, 4, 6] @[-, r.u, -, -] = scale(%1) {factor=2.0} forward\n"
      "%4 : float32[1, 8, 4, 6] @[-, r.u, -, -] = scale(%3) {factor=2.0} forward\n"
      "%5 : bfloat16[1, 8, 4, 6] @[-, r.u, -, -] = cast(%4) forward\n"
      "output \"y\" %5\n");
}

TEST_CASE("KV gradients of a bfloat16 run are summed in float32 and exchanged in bfloat16") {
  for (const std::int64_t kv_heads : {4, 1}) {  // 1: repeated for the ranks, the copies' gradients summed afterwards
    CompileRequest request =
        test::request(test::llama_like(kv_heads), Mesh({{"dp", 1}, {"gather", 2}, {"ulysses", 2}}), 1, DType::bfloat16);
    Graph graph = initial_graph(request, ProgramKind::accumulate_only);
    run_passes(graph, {request.options, ProgramKind::accumulate_only}, 0, static_cast<int>(pipeline().size()));
    int exchanges = 0, sums = 0;
    for (const Op& op : graph.ops) {
      INFO(print(graph, op));
      if (op.is("all_to_all"))
        for (const ValueId value : op.operands) {
          if (graph[value].shape.size() ==
              3) {  // what attention's gradient needs of the output: sums, in one message with it
            CHECK(graph[value].dtype == DType::float32);
            CHECK(op.operands.size() == 2);
            continue;
          }
          CHECK(graph[value].dtype == DType::bfloat16);
          ++exchanges;
        }
      if (op.is("reduce_scatter") && op.attributes.has("dimension"))
        for (const ValueId value : op.operands) {
          CHECK(graph[value].dtype == DType::float32);
          ++sums;
        }
    }
    CHECK(exchanges == 16);  // q, k, v, output, and their gradients, of two layers
    CHECK(sums == 4);
  }
}
