// keep_gathered: which gathers are left, and what passes from micro-batch to micro-batch.
#include <catch2/catch.hpp>
#include <map>

#include "ir/op_definition.h"
#include "ir/verifier.h"
#include "tests/passes/small_models.h"

using namespace longhaul;

namespace {

const std::string text =
    "graph \"g\" mesh(dp=2)\n"
    "input %0 : float64[4, 6, 8] @[dp, -, -] data \"x\"\n"
    "input %1 : bfloat16[8, 8] @[-, -]flat(dp) compute_parameter \"w\"\n"
    "input %2 : float64[8, 8] @[-, -]flat(dp) accumulator \"w\"\n"
    "%3 : bfloat16[8, 8] @[-, -] = reshard(%1) forward layer=0\n"
    "%4 : bfloat16[8, 8] @[-, -] = scale(%3) {factor=2.0} forward layer=0\n"
    "%5 : bfloat16[8, 8] @[-, -] = reshard(%1) backward layer=0\n"
    "%6 : bfloat16[8, 8] @[-, -] = scale(%5) {factor=3.0} backward layer=0\n"
    "%7 : float64[8, 8] @[-, -] = reshard(%2) backward layer=0\n"
    "%8 : float64[8, 8] @[-, -] = reshard(%2) forward layer=0\n"
    "%9 : bfloat16[8, 8] @[-, -] = add(%4, %6) backward layer=0\n"
    "output \"y\" %9\n"
    "output \"a\" %7\n"
    "output \"b\" %8\n";

Graph kept(KeepGathered lifetime, ProgramKind kind) {
  Graph graph = parse_graph(text);
  CompileOptions options;
  options.schedule.keep_gathered = lifetime;
  passes::keep_gathered(graph, {options, kind});
  CHECK(verify(graph, Stage::placed) == "");
  return graph;
}

int gathers(const Graph& graph, ValueId of) {
  int count = 0;
  for (const Op& op : graph.ops) count += op.is("reshard") && op.operands[0] == of;
  return count;
}

}  // namespace

TEST_CASE("a parameter is gathered for every phase unless told otherwise") {
  using enum ProgramKind;
  for (const ProgramKind kind : {accumulate_only, accumulate_first, accumulate_middle, accumulate_last, evaluate})
    CHECK(print(kept(KeepGathered::never, kind)) == print(parse_graph(text)));
  CHECK(print(kept(KeepGathered::step, evaluate)) == print(parse_graph(text)));
}

TEST_CASE("kept for backward, the first gather serves both phases") {
  using enum ProgramKind;
  for (const auto& [lifetime, kind] : {std::pair{KeepGathered::backward, accumulate_only},
                                       {KeepGathered::backward, accumulate_first},
                                       {KeepGathered::backward, accumulate_last},
                                       {KeepGathered::step, accumulate_only}}) {
    const Graph graph = kept(lifetime, kind);
    CHECK(gathers(graph, 1) == 1);
    CHECK(gathers(graph, 2) == 2);  // no parameter
    CHECK(graph.ops.size() == 6);
    CHECK(graph.outputs.size() == 3);
    CHECK(graph.inputs.size() == 3);
    for (const Op& op : graph.ops)
      if (op.is("scale")) CHECK(op.operands[0] == 3);
  }
}

TEST_CASE("kept for the step, the first micro-batch gathers and the others read") {
  using enum ProgramKind;
  const Graph first = kept(KeepGathered::step, accumulate_first);
  CHECK(gathers(first, 1) == 1);
  CHECK(first.output("gathered.w") == 3);
  for (const ProgramKind kind : {accumulate_middle, accumulate_last}) {
    const Graph graph = kept(KeepGathered::step, kind);
    CHECK(gathers(graph, 1) == 0);
    const ValueId input = graph.input("gathered.w");
    REQUIRE(input != no_value);
    CHECK(graph[input].dtype == DType::bfloat16);
    CHECK(graph[input].role == Role::gathered);
    CHECK(graph[input].layout.is_whole());
    for (const Op& op : graph.ops)
      if (op.is("scale")) CHECK(op.operands[0] == input);
  }
}

// What middle and last read is what first gives, in models with tied and untied heads.
TEST_CASE("every kept parameter is handed over") {
  for (const auto& spec : {test::llama_like(), test::gpt2_like()})
    for (const DType dtype : {DType::float32, DType::bfloat16}) {
      CompileRequest request = test::request(spec, test::mesh(2, 2), 3, dtype);
      request.options.schedule.keep_gathered = KeepGathered::step;
      const CompiledModel model = compile_model(request);
      const Graph& first = model.program(ProgramKind::accumulate_first).graph;
      std::size_t given = 0;
      for (const auto& output : first.outputs) given += output.is(Role::gathered);
      CHECK(given == parameters(spec).size());
      for (const ProgramKind kind : {ProgramKind::accumulate_middle, ProgramKind::accumulate_last}) {
        std::size_t taken = 0;
        for (const auto& input : model.program(kind).graph.inputs)
          if (input.is(Role::gathered)) {
            ++taken;
            CHECK(first.output(input.name) != no_value);
            CHECK(first[first.output(input.name)].dtype == dtype);
          }
        CHECK(taken == given);
      }
      // The update changes parameters: nothing gathered before it is read after it.
      for (const auto& input : model.program(ProgramKind::update).graph.inputs) CHECK_FALSE(input.is(Role::gathered));
      for (const auto& input : first.inputs) CHECK_FALSE(input.is(Role::gathered));
    }
}
