// choose_attention: heads over the sequence axes; KV heads repeated until they divide; heads that do not divide
// refused.
#include <catch2/catch.hpp>

#include "base/error.h"
#include "ir/verifier.h"
#include "passes/pass.h"
#include "tests/passes/pass_text.h"
#include "tests/passes/small_models.h"

using namespace longhaul;

namespace {

TransformerSpec with_heads(std::int64_t heads, std::int64_t kv_heads) {
  TransformerSpec spec = test::llama_like(kv_heads);
  spec.layers[0].layer.attention.heads = heads;
  return spec;
}

// The joint graph right after choose_attention.
Graph chosen(const TransformerSpec& spec, const Mesh& mesh, ProgramKind kind = ProgramKind::accumulate_only) {
  const CompileRequest request = test::request(spec, mesh, 0);
  Graph graph = specification(request, kind);
  passes::choose_attention(graph, {request.options, kind});
  REQUIRE(verify(graph, Stage::one_device) == "");
  return graph;
}

}  // namespace

TEST_CASE("without a split sequence nothing changes") {
  for (const Mesh& mesh : {test::mesh(1, 1), test::mesh(4, 1)}) {
    const CompileRequest request = test::request(with_heads(4, 2), mesh, 0);
    Graph graph = specification(request, ProgramKind::accumulate_only);
    const std::string before = print(graph);
    passes::choose_attention(graph, {request.options, ProgramKind::accumulate_only});
    CHECK(print(graph) == before);
  }
}

TEST_CASE("KV heads are repeated as often as the ranks ask, and no more") {
  struct Row {
    std::int64_t heads, kv_heads;
    int ranks;
    std::int64_t held;  // KV heads after repeating
  };
  for (const Row& row : {Row{4, 1, 2, 2}, Row{4, 2, 2, 2}, Row{12, 3, 2, 6}, Row{4, 1, 4, 4}, Row{4, 2, 4, 4},
                         Row{8, 2, 4, 4}, Row{12, 3, 4, 12}, Row{4, 4, 4, 4}, Row{24, 6, 4, 12}}) {
    INFO(row.heads << " heads, " << row.kv_heads << " KV heads over " << row.ranks << " ranks");
    const Graph graph = chosen(with_heads(row.heads, row.kv_heads), test::mesh(2, row.ranks));
    const bool repeats = row.held != row.kv_heads;
    CHECK(test::count(graph, "expand_heads") == (repeats ? 4 : 0));  // k and v of two layers, once for both phases
    CHECK(test::count(graph, "reduce_heads") == (repeats ? 4 : 0));
    for (const Op& op : graph.ops) {
      if (!op.is("attention") && !op.is("attention_gradient")) continue;
      CHECK(op.attributes.split().axes('h') == AxisList{2});
      CHECK(graph[op.operands[0]].shape[2] == row.heads);
      CHECK(graph[op.operands[1]].shape[2] == row.held);
      CHECK(graph[op.operands[2]].shape[2] == row.held);
      CHECK(row.held % row.ranks == 0);
      CHECK(row.heads % row.held == 0);
      if (op.is("attention_gradient")) {
        CHECK(graph[op.results[1]].shape[2] == row.held);
        CHECK(graph[op.results[1]].primal == op.operands[1]);
      }
    }
  }
}

TEST_CASE("heads that do not divide are refused, with the layer") {
  TransformerSpec spec = with_heads(8, 2);
  LayerGroup odd = spec.layers[0];
  odd.repeat = 1;
  odd.layer.attention.heads = 6;
  spec.layers.push_back(odd);
  CHECK_NOTHROW(chosen(spec, test::mesh(2, 2)));
  for (ProgramKind kind : {ProgramKind::evaluate, ProgramKind::accumulate_only}) {
    try {
      chosen(spec, test::mesh(2, 4), kind);
      FAIL("not refused");
    } catch (const Error& error) {
      const std::string said = error.what();
      INFO(said);
      CHECK(said.find("layer 2") != std::string::npos);
      CHECK(said.find("6 query heads") != std::string::npos);
      CHECK(said.find("4 ranks") != std::string::npos);
      CHECK(said.find("parallelism.sequence") != std::string::npos);
    }
  }
}

TEST_CASE("layers with a window use the axes another way, and tokens stay where they are") {
  TransformerSpec spec = with_heads(4, 2);
  LayerGroup windowed = spec.layers[0];
  windowed.repeat = 1;
  windowed.layer.attention.heads = 3;  // no number of ranks divides them: their heads stay together
  windowed.layer.attention.kv_heads = 1;
  windowed.layer.attention.window = 2;
  spec.layers.push_back(windowed);
  const Mesh mesh({{"ring", 2}, {"ulysses", 2}});
  CompileRequest request = test::request(spec, mesh, 0);
  request.options.placement.window_axes = {{"ring", "gather"}, {"ulysses", "gather"}};
  Graph graph = specification(request, ProgramKind::accumulate_only);
  run_passes(graph, {request.options, ProgramKind::accumulate_only}, specification_passes(),
             specification_passes() + 3);
  int with = 0, without = 0;
  for (const Op& op : graph.ops) {
    if (!op.is("attention") && !op.is("attention_gradient")) continue;
    const bool window = op.attributes.integer("window") > 0;
    ++(window ? with : without);
    CHECK(op.attributes.split().axes('h') == (window ? AxisList() : AxisList{1}));
    CHECK(op.attributes.split().axes('s') == (window ? AxisList{0, 1} : AxisList{0}));
    CHECK(op.attributes.split().axes('t') == op.attributes.split().axes('s'));
    CHECK(op.attributes.integer("keeps_keys") == (window ? 1 : 0));
  }
  CHECK(with == 2);
  CHECK(without == 4);
  // Heads that do not divide are laid to the key that asked for it.
  request.options.placement.window_axes = {{"ring", "ulysses"}};
  Graph refused = specification(request, ProgramKind::accumulate_only);
  CHECK_THROWS_WITH(run_passes(refused, {request.options, ProgramKind::accumulate_only}, specification_passes(),
                               specification_passes() + 3),
                    Catch::Contains("parallelism.window_layers") && Catch::Contains("layer 2 has 3 query heads"));
}
