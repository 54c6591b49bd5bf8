// assign_precision, shard_state, partition and lower_reshards: dtypes and layouts of whole programs.
#include <catch2/catch.hpp>

#include "ir/verifier.h"
#include "passes/pass.h"
#include "tests/passes/pass_text.h"
#include "tests/passes/small_models.h"

using namespace longhaul;

namespace {

// The graph of one program after the pass of that name.
Graph after(const CompileRequest& request, ProgramKind kind, std::string_view last) {
  Graph graph = initial_graph(request, kind);
  int end = 0;
  while (pipeline()[static_cast<std::size_t>(end++)].name != last) {
  }
  run_passes(graph, {request.options, kind}, 0, end);
  return graph;
}

const Op& maker(const Graph& graph, ValueId value) {
  return graph.ops[static_cast<std::size_t>(definitions(graph)[static_cast<std::size_t>(value)])];
}

std::string input_layout(const Graph& graph, const std::string& name) {
  return test::layout(graph, graph.input(name));
}
std::string output_layout(const Graph& graph, const std::string& name) {
  return test::layout(graph, graph.output(name));
}

int count_on(const Graph& graph, std::string_view op, const AxisList& axes) {
  int n = 0;
  for (const Op& one : graph.ops) n += one.is(op) && one.attributes.axes("axes") == axes;
  return n;
}

}  // namespace

TEST_CASE("assign_precision in float64 changes nothing") {
  const CompileRequest request = test::request(test::qwen3_like(), test::mesh(2, 2), 3);
  for (ProgramKind kind : request.kinds) {
    Graph graph = specification(request, kind);
    const std::string before = print(graph);
    passes::assign_precision(graph, {request.options, kind});
    CHECK(print(graph) == before);
  }
}

TEST_CASE("assign_precision in bfloat16") {
  const CompileRequest request = test::request(test::qwen3_like(), test::mesh(2, 2), 1, DType::bfloat16);
  const Graph joint = after(request, ProgramKind::accumulate_last, "assign_precision");
  for (const auto& input : joint.inputs) {
    const Value& value = joint[input.value];
    INFO(input.name);
    CHECK(value.role != Role::parameter);  // compute copies instead
    if (value.role == Role::compute_parameter) {
      CHECK(input.name.starts_with("compute."));
      CHECK(value.dtype == DType::bfloat16);
    }
    if (value.role == Role::accumulator) CHECK(value.dtype == DType::float32);
    if (value.role == Role::scalar) CHECK(value.dtype == DType::float64);
    if (value.role == Role::data) CHECK(value.dtype == DType::int32);
  }
  for (const Op& op : joint.ops) {
    INFO(print(joint, op));
    if (op.is("attention")) CHECK(joint[op.results[1]].dtype == DType::float32);
    if (op.is("rope_table")) CHECK(joint[op.results[0]].dtype == DType::float32);
    if (op.is("cross_entropy")) CHECK(joint[op.results[0]].dtype == DType::float64);
    if (op.is("rms_norm_gradient")) {
      CHECK(joint[op.results[0]].dtype == DType::bfloat16);
      CHECK(joint[op.results[1]].dtype == DType::float32);
    }
    if (op.is("activation") || op.is("gated_activation") || op.is("rope"))
      CHECK(joint[op.results[0]].dtype == DType::bfloat16);
  }
  for (const auto& output : joint.outputs)
    CHECK(joint[output.value].dtype == (output.name == "loss" ? DType::float64 : DType::float32));
  CHECK(test::count(joint, "cast") == 0);  // nothing asked for a rounded reduction

  const Graph update = after(request, ProgramKind::update, "assign_precision");
  for (const auto& parameter : request.options.meaning.parameters) {
    INFO(parameter.name);
    CHECK(update[update.input(parameter.name)].dtype == DType::float32);
    CHECK(update[update.input("first_moment." + parameter.name)].dtype == DType::float32);
    CHECK(update[update.output(parameter.name)].dtype == DType::float32);
    const ValueId copy = update.output("compute." + parameter.name);
    REQUIRE(copy != no_value);
    CHECK(update[copy].dtype == DType::bfloat16);
    CHECK(maker(update, copy).operands == std::vector<ValueId>{update.output(parameter.name)});
  }
}

TEST_CASE("gradients are rounded only for the reduction that asks for it") {
  CompileRequest request = test::request(test::gpt2_like(), test::mesh(2, 2), 1, DType::bfloat16);
  request.options.precision.gradient_reduce = DType::bfloat16;
  const auto rounded = [&](ProgramKind kind, int stage, const Mesh& mesh) {
    CompileRequest one = request;
    one.mesh = mesh;
    one.options.placement.sharded = state_placement(stage);
    const Graph graph = after(one, kind, "partition");
    int casts = 0;
    for (const Op& op : graph.ops) {
      if (!op.is("cast") || !op.attributes.integer("for_reduction")) continue;
      ++casts;
      CHECK(graph[op.results[0]].dtype == DType::bfloat16);
      // What is rounded is the partial sum, and the reduction follows at once, before it is widened again.
      CHECK(graph[op.operands[0]].layout.partial == graph.mesh.live().set());
      CHECK(graph[op.results[0]].layout.partial == graph.mesh.live().set());
      const auto users = uses(graph)[static_cast<std::size_t>(op.results[0])];
      REQUIRE(users.size() == 1);
      const Op& reduction = graph.ops[static_cast<std::size_t>(users[0])];
      CHECK(reduction.is("reshard"));
      CHECK(graph[reduction.results[0]].layout.partial == 0);
      const auto wide = uses(graph)[static_cast<std::size_t>(reduction.results[0])];
      REQUIRE(wide.size() == 1);
      CHECK(graph[graph.ops[static_cast<std::size_t>(wide[0])].results[0]].dtype == DType::float32);
    }
    return casts;
  };
  const Mesh mesh = test::mesh(2, 2);
  const int all = static_cast<int>(request.options.meaning.parameters.size());
  for (int stage : {0, 1}) {  // accumulators are partial: reduced once a step
    INFO("ZeRO " << stage);
    CHECK(rounded(ProgramKind::accumulate_only, stage, mesh) == all);
    CHECK(rounded(ProgramKind::accumulate_first, stage, mesh) == 0);
    CHECK(rounded(ProgramKind::accumulate_middle, stage, mesh) == 0);
    CHECK(rounded(ProgramKind::accumulate_last, stage, mesh) == all);
  }
  for (int stage : {2, 3})  // reduced with every micro-batch
    for (ProgramKind kind : {ProgramKind::accumulate_only, ProgramKind::accumulate_first,
                             ProgramKind::accumulate_middle, ProgramKind::accumulate_last}) {
      INFO("ZeRO " << stage << " " << name_of(kind));
      CHECK(rounded(kind, stage, mesh) == all);
    }
  CHECK(rounded(ProgramKind::accumulate_only, 1, test::mesh(1, 1)) == 0);  // no reduction
  request.options.precision.gradient_reduce = request.options.precision.gradient;
  CHECK(rounded(ProgramKind::accumulate_only, 1, mesh) == 0);
}

TEST_CASE("ZeRO is where state lives") {
  const std::string whole = "[-, -]", flat = "[-, -]flat(dp.ulysses)", sum = "[-, -]sum(dp.ulysses)";
  struct Row {
    int stage;
    std::string moments, gradients, accumulators, parameters, masters;
  };
  for (const Row& row : {Row{0, whole, whole, sum, whole, whole}, Row{1, flat, flat, sum, whole, flat},
                         Row{2, flat, flat, flat, whole, flat}, Row{3, flat, flat, flat, flat, flat}})
    for (DType dtype : {DType::float32, DType::bfloat16}) {
      INFO("ZeRO " << row.stage << " " << name_of(dtype));
      const CompileRequest request = test::request(test::llama_like(), test::mesh(2, 2), row.stage, dtype);
      const bool copies = dtype == DType::bfloat16;
      const Graph last = after(request, ProgramKind::accumulate_last, "schedule");
      const Graph middle = after(request, ProgramKind::accumulate_middle, "schedule");
      const Graph update = after(request, ProgramKind::update, "schedule");
      CHECK(input_layout(last, copies ? "compute.head.weight" : "head.weight") == row.parameters);
      CHECK(input_layout(last, "accumulator.head.weight") == row.accumulators);
      CHECK(output_layout(middle, "accumulator.head.weight") == row.accumulators);
      CHECK(output_layout(last, "gradient.head.weight") == row.gradients);
      CHECK(input_layout(update, "gradient.head.weight") == row.gradients);
      for (const Graph* graph : {&update}) {
        CHECK(input_layout(*graph, "first_moment.head.weight") == row.moments);
        CHECK(output_layout(*graph, "second_moment.head.weight") == row.moments);
        CHECK(input_layout(*graph, "head.weight") == (copies ? row.masters : row.parameters));
        CHECK(output_layout(*graph, "head.weight") == (copies ? row.masters : row.parameters));
        if (copies) CHECK(output_layout(*graph, "compute.head.weight") == row.parameters);
        CHECK(output_layout(*graph, "grad_norm") == "[]");
      }
      CHECK(output_layout(last, "loss") == "[]");
    }
}

TEST_CASE("communication of a step, by ZeRO stage") {
  const TransformerSpec spec = test::llama_like();
  const int all = static_cast<int>(parameters(spec).size());
  const AxisList everyone{0, 2};
  std::int64_t bucket_size = 0;
  const auto joint = [&](int stage, ProgramKind kind) {
    CompileRequest request = test::request(spec, test::mesh(2, 2), stage, DType::bfloat16);
    request.options.schedule.bucket_size = bucket_size;
    return after(request, kind, "schedule");
  };
  const auto counts = [&](const Graph& graph) {
    return std::vector<int>{count_on(graph, "all_reduce", everyone), count_on(graph, "reduce_scatter", everyone),
                            count_on(graph, "all_gather", everyone)};
  };
  // loss, then gradients, then parameters
  CHECK(counts(joint(0, ProgramKind::accumulate_only)) == std::vector<int>{1 + all, 0, 0});
  CHECK(counts(joint(1, ProgramKind::accumulate_only)) == std::vector<int>{1, all, 0});
  CHECK(counts(joint(1, ProgramKind::accumulate_middle)) == std::vector<int>{1, 0, 0});
  CHECK(counts(joint(2, ProgramKind::accumulate_middle)) == std::vector<int>{1, all, 0});
  const auto third = counts(joint(3, ProgramKind::accumulate_only));
  CHECK(third[0] == 1);
  CHECK(third[1] == all);
  CHECK(third[2] >= 2 * (all - 4));  // most parameters once a phase
  CHECK(third[2] <= 2 * all);
  CHECK(counts(joint(0, ProgramKind::update)) == std::vector<int>{0, 0, 0});
  CHECK(counts(joint(1, ProgramKind::update)) == std::vector<int>{1, 0, all});  // the norm; updated copies
  CHECK(counts(joint(3, ProgramKind::update)) == std::vector<int>{1, 0, 0});
  CHECK(counts(joint(0, ProgramKind::count)) == std::vector<int>{1, 0, 0});
  // Ulysses: q, k, v of two layers, the output; backward the output's gradient, and dq, dk, dv; what the forward
  // exchanged is kept.
  const Graph graph = joint(1, ProgramKind::accumulate_only);
  CHECK(count_on(graph, "all_to_all", {2}) == 8);
  // In buckets that hold all of this model: one reduction, one gather after the update; a gather for each layer and
  // phase, and for what is outside the layers.
  bucket_size = 1 << 20;
  CHECK(counts(joint(0, ProgramKind::accumulate_only)) == std::vector<int>{2, 0, 0});
  CHECK(counts(joint(1, ProgramKind::accumulate_only)) == std::vector<int>{1, 1, 0});
  CHECK(counts(joint(2, ProgramKind::accumulate_middle)) == std::vector<int>{1, 1, 0});
  CHECK(counts(joint(1, ProgramKind::update)) == std::vector<int>{1, 0, 1});
  const auto buckets = counts(joint(3, ProgramKind::accumulate_only));
  CHECK(buckets[1] == 1);
  CHECK(buckets[2] >= 6);
  CHECK(buckets[2] <= 10);
  CHECK(test::count(graph, "reshard") == 0);
  // one rank: silence
  const Graph alone =
      after(test::request(spec, test::mesh(1, 1), 3, DType::bfloat16), ProgramKind::accumulate_only, "schedule");
  for (const Op& op : alone.ops) CHECK_FALSE(op.definition->communication);
}

TEST_CASE("data are split, activations stay split, attention returns to the layout of q") {
  const CompileRequest request = test::request(test::qwen3_like(), test::mesh(2, 4), 3);
  const Graph graph = after(request, ProgramKind::accumulate_only, "partition");
  for (const char* name : {"tokens", "labels", "index", "key_start", "position"})
    CHECK(input_layout(graph, name) == "[dp, ulysses]");
  for (const Op& op : graph.ops) {
    INFO(print(graph, op));
    if (op.is("rms_norm") || op.is("add") || op.is("gated_activation")) {
      const Value& value = graph[op.results[0]];
      if (value.shape.size() >= 3 && op.phase == Phase::forward) {
        CHECK(value.layout.dimensions[0].axes == AxisList{0});
        CHECK(value.layout.dimensions[1].axes == AxisList{2});
      }
    }
    if (op.is("einsum") && op.signature->text == "bshd,ehd->bse")
      CHECK(test::layout(graph, op.operands[0]) == "[dp, ulysses, -, -]");
  }
}

TEST_CASE("what does not divide is refused by partition") {
  CompileRequest request = test::request(test::llama_like(), test::mesh(2, 4), 0);
  request.sequence = 6;
  CHECK_THROWS_WITH(after(request, ProgramKind::evaluate, "schedule"), Catch::Contains("does not divide"));
}

TEST_CASE("lower_reshards makes the chain of collectives, with the layouts between") {
  Graph graph = parse_graph(
      "graph \"g\" mesh(r=2, u=2)\n"
      "input %0 : float64[2, 8, 4, 6] @[-, r.u, -, -] data \"k\"\n"
      "%1 : float64[2, 8, 4, 6] @[-, -, u, -] \"k\" = reshard(%0) forward layer=3 by=partition\n"
      "%2 : float64[2, 8, 4, 6] @[-, -, u, -] = scale(%1) {factor=2.0} forward layer=3 by=model\n"
      "output \"y\" %2\n");
  const CompileOptions options;
  passes::lower_reshards(graph, {options, ProgramKind::evaluate});
  CHECK(verify(graph, Stage::lowered) == "");
  CHECK(
      print(graph) ==
      "graph \"g\" mesh(r=2, u=2)\n"
      "input %0 : float64[2, 8, 4, 6] @[-, r.u, -, -] data \"k\"\n"
      "%3 : float64[2, 8, 4, 6] @[-, r, u, -] \"k\" = all_to_all(%0) {axes=<u>, dimension=1, split=2} forward layer=3 "
      "by=partition\n"
      "%1 : float64[2, 8, 4, 6] @[-, -, u, -] \"k\" = all_gather(%3) {axes=<r>, dimension=1} forward layer=3 "
      "by=partition\n"
      "%2 : float64[2, 8, 4, 6] @[-, -, u, -] = scale(%1) {factor=2.0} forward layer=3 by=model\n"
      "output \"y\" %2\n");
}

TEST_CASE("the loss head is tiled in every model, and products take their addends in") {
  for (const auto& spec : {test::llama_like(), test::gpt2_like(), test::qwen3_like()}) {
    const Graph graph = after(test::request(spec, test::mesh(2, 2), 2), ProgramKind::accumulate_middle, "schedule");
    CHECK(test::count(graph, "loss_head") == 1);
    CHECK(test::count(graph, "cross_entropy") == 0);
    for (const Op& op : graph.ops)
      for (ValueId result : op.results) CHECK(graph[result].shape != Shape{2, 8, test::vocabulary});  // no logits
  }
  const Graph graph =
      after(test::request(test::llama_like(), test::mesh(2, 2), 2), ProgramKind::accumulate_middle, "schedule");
  CHECK(test::count(graph, "einsum_add") >= 4);  // both residuals of both layers
  CHECK(test::count(after(test::request(test::llama_like(), test::mesh(2, 2), 2), ProgramKind::evaluate, "schedule"),
                    "loss_head_evaluate") == 1);
}
