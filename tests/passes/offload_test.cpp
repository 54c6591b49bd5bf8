// offload: which values go to host memory, where their copies start and are waited for, and where nothing moves.
#include <catch2/catch.hpp>

#include "ir/verifier.h"
#include "passes/offload.h"
#include "passes/pass.h"
#include "passes/plan_memory.h"
#include "passes/price.h"
#include "tests/passes/pass_text.h"

using namespace longhaul;

namespace {

// 32·32 float32 are 4096 bytes, a product of two costs 2·32³ = 65536 FLOPs; memory costs nothing here.
CompileOptions options_with(std::int64_t values, double flops_per_host_byte) {
  CompileOptions options;
  options.schedule.flops_per_byte = 0;
  options.schedule.offload_values = values;
  options.schedule.flops_per_host_byte = flops_per_host_byte;
  return options;
}
constexpr double product = 65536, bytes = 4096;
/// A price at which a value's way takes so many products.
double way(double products) {
  return products * product / bytes;
}

const std::string header =
    "graph \"g\" mesh(dp=1)\n"
    "input %0 : float32[32, 32] @[-, -] data \"x\"\n"
    "input %1 : float32[32, 32] @[-, -] parameter \"w\"\n";

std::string multiply(int result, int operand, const std::string& phase, int layer) {
  return "%" + std::to_string(result) + " : float32[32, 32] @[-, -] = einsum \"be,fe->bf\"(%" +
         std::to_string(operand) + ", %1) " + phase + " layer=" + std::to_string(layer) + "\n";
}

// Forward %2 ... %9, each of the one before; backward %12 ... %19, of the one before and of %9 ... %2.
Graph chain() {
  std::string text = header + multiply(2, 0, "forward", 0);
  for (int i = 3; i < 10; ++i) text += multiply(i, i - 1, "forward", i - 2);
  int last = 9;
  for (int i = 0; i < 8; ++i) {
    text += "%" + std::to_string(12 + i) + " : float32[32, 32] @[-, -] = einsum \"be,fe->bf\"(%" +
            std::to_string(9 - i) + ", %" + std::to_string(last) + ") backward layer=" + std::to_string(7 - i) + "\n";
    last = 12 + i;
  }
  text += "output \"y\" %19\n";
  return parse_graph(text);
}

Graph offloaded(Graph graph, const CompileOptions& options, ProgramKind kind = ProgramKind::accumulate_only) {
  REQUIRE(verify(graph, Stage::lowered) == "");
  passes::offload(graph, {options, kind});
  REQUIRE(verify(graph, Stage::lowered) == "");
  return graph;
}

// Positions of ops on this value: of offload.start, offload.wait, reload.start, reload.wait, and of the first reader.
std::vector<int> places(const Graph& graph, ValueId value) {
  std::vector<int> list;
  ValueId at = value;
  for (std::size_t i = 0; i < graph.ops.size(); ++i) {
    const Op& op = graph.ops[i];
    if (op.definition->half == Half::none || op.operands[0] != at) continue;
    list.push_back(static_cast<int>(i));
    at = op.results[0];
  }
  const auto use = uses(graph);
  if (const auto& users = use[static_cast<std::size_t>(at)]; !users.empty()) list.push_back(users.front());
  return list;
}

int moved(const Graph& graph) {
  return test::count(graph, "offload.start");
}

}  // namespace

TEST_CASE("candidates are what the backward pass reads, what it needs last first") {
  const std::vector<OffloadCandidate> list = offload_candidates(chain());
  REQUIRE(list.size() == 8);
  for (std::size_t i = 0; i < list.size(); ++i) {
    CHECK(list[i].value == static_cast<ValueId>(2 + i));
    CHECK(list[i].bytes == 4096);
  }
  CHECK(list[0].last_used == 1);  // by the next product
  CHECK(list[0].needed == 15);
  CHECK(list[7].last_used == 7);  // by nobody: where it is made
  CHECK(list[7].needed == 8);
}

TEST_CASE("inputs, outputs, scalars, gathered parameters and what only one pass reads stay") {
  const Graph graph = parse_graph(
      "graph \"g\" mesh(dp=2)\n"
      "input %0 : float32[32, 32] @[dp, -] data \"x\"\n"
      "input %1 : float32[32, 32] @[-, -]flat(dp) parameter \"w\"\n"
      "%2 : float32[32, 32] @[-, -] = all_gather(%1) {axes=<dp>} forward layer=0\n"
      "%3 : float32[32, 32] @[dp, -] = einsum \"be,fe->bf\"(%0, %2) forward layer=0\n"
      "%4 : float32[] @[]sum(dp) = einsum \"be,be->\"(%3, %3) forward layer=0\n"
      "%5 : float32[32, 32] @[dp, -] = scale(%3) {factor=2.0} forward layer=0\n"
      "%6 : float32[32, 32] @[dp, -] = scale(%3) {factor=3.0} forward layer=0\n"
      "%7 : float32[32, 32] @[dp, -] = scale(%6) {factor=3.0} forward layer=0\n"
      "%8 : float32[32, 32] @[dp, -] = einsum \"be,fe->bf\"(%5, %2) backward layer=0\n"
      "%9 : float32[32, 32] @[dp, -] = add(%8, %0, %7) backward layer=0\n"
      "output \"a\" %4\noutput \"b\" %5\noutput \"c\" %9\n");
  REQUIRE(verify(graph, Stage::lowered) == "");
  const std::vector<OffloadCandidate> list = offload_candidates(graph);
  REQUIRE(list.size() == 1);
  CHECK(list[0].value == 7);
}

TEST_CASE("a copy out starts behind the last forward use, a copy back as late as it can") {
  // A way takes half a product: it is done before the second op behind it begins, and starts one op before the read.
  const Graph graph = offloaded(chain(), options_with(1, way(0.5)));
  CHECK(moved(graph) == 1);
  // x2, x3, start, x4, wait, ...
  CHECK(places(graph, 2) == std::vector<int>{2, 4, 16, 18, 19});
  // A way of two and a half products.
  CHECK(places(offloaded(chain(), options_with(1, way(2.5))), 2) == std::vector<int>{2, 6, 14, 18, 19});
  const Op& wait = test::find(graph, "offload.wait");
  CHECK(wait.operands[1] == 2);
  CHECK(wait.phase == Phase::forward);
  CHECK(wait.layer == 0);
  CHECK(wait.made_by == "offload");
  CHECK(graph[wait.results[0]].space == Space::host);
  const Op& back = test::find(graph, "reload.wait");
  CHECK(back.phase == Phase::backward);
  CHECK(graph[back.results[0]].space == Space::device);
  CHECK(graph[back.results[0]].layout == graph[2].layout);
}

TEST_CASE("a queue takes one copy after the other, and nothing waits for it") {
  const Graph graph = offloaded(chain(), options_with(8, way(0.75)));
  // What is away for less than twice its way stays.
  CHECK(moved(graph) == 5);
  for (const ValueId value : {2, 3, 4, 5, 6}) {
    INFO("%" << value);
    const std::vector<int> at = places(graph, value);
    REQUIRE(at.size() == 5);
    CHECK(std::is_sorted(at.begin(), at.end()));
  }
  // The device holds what is on its way and what it reads; the host all that is away.
  const NamedBuffers named = plan_named_buffers({&graph});
  const auto none = [](const Graph&, const Op&) -> std::int64_t { return 0; };
  const MemoryPlan plan = plan_memory(graph, named, none), kept = plan_memory(chain(), named, none);
  CHECK(plan.host.transient_bytes == 5 * 4096);
  CHECK(kept.host.transient_bytes == 0);
  CHECK(kept.transient_bytes == 9 * 4096);
  CHECK(plan.transient_bytes <= 5 * 4096);
}

TEST_CASE("a link slower than the layers moves what it can") {
  int before = 8;
  for (const double products : {0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0}) {
    const int now = moved(offloaded(chain(), options_with(8, way(products))));
    INFO(products);
    CHECK(now <= before);
    before = now;
  }
  CHECK(before == 0);
}

TEST_CASE("as many as are allowed, the longest kept first") {
  for (int values = 0; values < 6; ++values) {
    const Graph graph = offloaded(chain(), options_with(values, way(0.5)));
    CHECK(moved(graph) == values);
    for (int i = 0; i < 6; ++i) CHECK((places(graph, 2 + i).size() == 5) == (i < values));
  }
}

TEST_CASE("nothing moves in programs without a backward pass, nor unasked") {
  const std::string before = print(chain());
  CHECK(print(offloaded(chain(), options_with(0, way(0.5)))) == before);
  for (const ProgramKind kind : {ProgramKind::evaluate, ProgramKind::count, ProgramKind::update})
    CHECK(print(offloaded(chain(), options_with(8, way(0.5)), kind)) == before);
  CHECK(print(offloaded(chain(), CompileOptions())) == before);
}

TEST_CASE("the text of a program with copies reads back") {
  const Graph graph = offloaded(chain(), options_with(3, way(0.5)));
  const std::string text = print(graph);
  CHECK(text.find("host = offload.start(%2) forward layer=0 by=offload") != std::string::npos);
  CHECK(print(parse_graph(text)) == text);
}
