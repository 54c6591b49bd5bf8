// overlap: where starts and waits come to stand, what comes with a wait, what memory forbids, and what stays whole.
#include <fmt/format.h>

#include <catch2/catch.hpp>

#include "ir/verifier.h"
#include "passes/pass.h"
#include "tests/passes/pass_text.h"

using namespace longhaul;

namespace {

const std::string header =
    "graph \"g\" mesh(dp=2)\n"
    "input %0 : float32[32, 32] @[-, -] data \"x\"\n"
    "input %1 : float32[32, 32] @[-, -]flat(dp) parameter \"w0\"\n"
    "input %2 : float32[32, 32] @[-, -]flat(dp) parameter \"w1\"\n"
    "input %3 : float32[32, 32] @[-, -]flat(dp) parameter \"w2\"\n"
    "input %4 : float32[32, 32] @[-, -]sum(dp) accumulator \"w0\"\n";

std::string product(int result, int x, int w) {
  return fmt::format("%{} : float32[32, 32] @[-, -] = einsum \"be,fe->bf\"(%{}, %{}) forward\n", result, x, w);
}
std::string gather(int result, int shard) {
  return fmt::format("%{} : float32[32, 32] @[-, -] = all_gather(%{}) {{axes=<dp>}} forward\n", result, shard);
}

// Collectives take `collective` times as long as a product, all else nothing.
Graph overlapped(const std::string& text, double collective, std::int64_t memory = any_memory) {
  Graph graph = parse_graph(header + text);
  CompileOptions options;
  options.schedule.overlap_memory = memory;
  options.schedule.seconds = [collective](const Graph&, const Op& op) {
    return op.definition->communication ? collective : op.is("einsum") ? 1.0 : 0.0;
  };
  REQUIRE(verify(graph, Stage::lowered) == "");
  passes::overlap(graph, {options, ProgramKind::accumulate_only});
  REQUIRE(verify(graph, Stage::lowered) == "");
  return graph;
}

std::string order(const Graph& graph) {
  std::string text;
  for (const auto& name : test::op_names(graph)) text += (text.empty() ? "" : " ") + name;
  return text;
}

// y = x·w0·w1·w2, each weight gathered where it is used.
const std::string layers = gather(10, 1) + product(11, 0, 10) + gather(12, 2) + product(13, 11, 12) + gather(14, 3) +
                           product(15, 13, 14) + "output \"y\" %15\n";

}  // namespace

TEST_CASE("weights are gathered as late as they can be and still be there") {
  // The first has nothing to run beside and stays whole.
  CHECK(order(overlapped(layers, 0.5)) ==
        "all_gather all_gather.start einsum all_gather.wait all_gather.start einsum all_gather.wait einsum");
  // What takes longer than one layer starts two layers ahead, behind the one before it on its link.
  CHECK(order(overlapped(layers, 1.5)) ==
        "all_gather all_gather.start all_gather.start einsum all_gather.wait einsum all_gather.wait einsum");
}

TEST_CASE("memory decides how far ahead weights are gathered") {
  // At each product live: its weight, its operand and its result, 4096 bytes each, where those are no buffers.
  CHECK(order(overlapped(layers, 0.5, 3 * 4096)) ==
        "all_gather all_gather.start einsum all_gather.wait einsum all_gather einsum");
  CHECK(order(overlapped(layers, 0.5, 4096)) == "all_gather einsum all_gather einsum all_gather einsum");
  CHECK(order(overlapped(layers, 0.5, 0)) == "all_gather einsum all_gather einsum all_gather einsum");
}

TEST_CASE("a sum is waited for when it will be done, and what it is added to waits with it") {
  const std::string gradient =
      "%10 : float32[32, 32] @[-, -]sum(dp) = add(%4, %4) backward\n"
      "%11 : float32[32, 32] @[-, -]flat(dp) = reduce_scatter(%10) {axes=<dp>} backward\n"
      "%12 : float32[32, 32] @[-, -]flat(dp) = scale(%11) {factor=2.0} backward\n";
  const std::string work = product(20, 0, 0) + product(21, 20, 0) + product(22, 21, 0);
  const std::string outputs = "output \"y\" %22\noutput gradient \"w0\" %12\n";
  CHECK(order(overlapped(gradient + work + outputs, 1.5)) ==
        "add reduce_scatter.start einsum einsum reduce_scatter.wait scale einsum");
  CHECK(order(overlapped(gradient + work + outputs, 9)) ==
        "add reduce_scatter.start einsum einsum einsum reduce_scatter.wait scale");
  // Where its operand has to stay for it, memory ends it sooner.
  CHECK(order(overlapped(gradient + work + outputs, 9, 2 * 4096)) ==
        "add reduce_scatter.start einsum reduce_scatter.wait scale einsum einsum");
  // Nothing to run beside.
  CHECK(order(overlapped(work + gradient + outputs, 9)) == "einsum einsum einsum add reduce_scatter scale");
}

TEST_CASE("links are FIFOs of their own") {
  const std::string text =
      "%10 : float32[32, 32] @[-, -]sum(dp) = add(%4, %4) backward\n" +
      std::string("%11 : float32[32, 32] @[-, -]flat(dp) = reduce_scatter(%10) {axes=<dp>} backward\n") +
      product(20, 0, 0) + gather(12, 2) + product(21, 20, 12) + product(22, 21, 0) +
      "output \"y\" %22\noutput gradient \"w0\" %11\n";
  CHECK(order(overlapped(text, 1)) ==
        "all_gather.start add reduce_scatter.start einsum all_gather.wait einsum reduce_scatter.wait einsum");
}

TEST_CASE("a group of one rank exchanges nothing") {
  Graph graph = parse_graph(
      "graph \"g\" mesh(dp=1)\n"
      "input %0 : float32[32, 32] @[-, -] data \"x\"\n"
      "%1 : float32[32, 32] @[-, -] = einsum \"be,fe->bf\"(%0, %0) forward\n"
      "output \"y\" %1\n");
  CompileOptions options;
  options.schedule.overlap_memory = any_memory;
  passes::overlap(graph, {options, ProgramKind::accumulate_only});
  CHECK(order(graph) == "einsum");
}
