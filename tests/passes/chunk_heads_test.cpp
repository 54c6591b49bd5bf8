// chunk_heads: what is exchanged for attention, and what attention makes, exists for the heads of one chunk; and where
// attention must stay whole.
#include <fmt/format.h>

#include <catch2/catch.hpp>

#include "ir/verifier.h"
#include "passes/pass.h"
#include "tests/passes/pass_text.h"

using namespace longhaul;

namespace {

// q, k, v in the sequence's layout (q made by another op, so that its buffer may be taken over), attention, and the
// output back in the sequence's layout. HEADS over two ranks; KV heads of 2.
std::string forward(int heads, int kv_heads) {
  return fmt::format(
      "graph \"g\" mesh(a=2)\n"
      "input %0 : bfloat16[1, 8, {0}, 2] @[-, a, -, -] data \"z\"\n"
      "input %1 : bfloat16[1, 8, {1}, 2] @[-, a, -, -] data \"k\"\n"
      "input %2 : bfloat16[1, 8, {1}, 2] @[-, a, -, -] data \"v\"\n"
      "input %3 : int32[1, 8] @[-, -] data \"index\"\n"
      "input %4 : bfloat16[1, 8, {0}, 2] @[-, a, -, -] data \"w\"\n"
      "%5 : bfloat16[1, 8, {0}, 2] @[-, a, -, -] \"q\" = add(%0, %4) forward layer=0\n"
      "%6 : bfloat16[1, 8, {0}, 2] @[-, -, a, -] \"q\" = reshard(%5) forward layer=0 by=partition\n"
      "%7 : bfloat16[1, 8, {1}, 2] @[-, -, a, -] \"k\" = reshard(%1) forward layer=0 by=partition\n"
      "%8 : bfloat16[1, 8, {1}, 2] @[-, -, a, -] \"v\" = reshard(%2) forward layer=0 by=partition\n"
      "%9 : bfloat16[1, 8, {0}, 2] @[-, -, a, -], %10 : float32[1, {0}, 8] @[-, a, -] = attention(%6, %7, %8, %3, %3, "
      "%3) {{scale=0.5, split={{g: a, h: a}}}} forward layer=0 by=choose_attention\n"
      "%11 : bfloat16[1, 8, {0}, 2] @[-, a, -, -] \"o\" = reshard(%9) forward layer=0 by=partition\n"
      "output \"o\" %11\n"
      "output \"lse\" %10\n",
      heads, kv_heads);
}
// Its gradient, with q, k and v exchanged again.
std::string backward(int heads, int kv_heads) {
  return fmt::format(
      "graph \"g\" mesh(a=2)\n"
      "input %0 : bfloat16[1, 8, {0}, 2] @[-, a, -, -] data \"q\"\n"
      "input %1 : bfloat16[1, 8, {1}, 2] @[-, a, -, -] data \"k\"\n"
      "input %2 : bfloat16[1, 8, {1}, 2] @[-, a, -, -] data \"v\"\n"
      "input %3 : int32[1, 8] @[-, -] data \"index\"\n"
      "input %4 : float32[1, 8, {0}] @[-, -, a] data \"delta\"\n"
      "input %5 : float32[1, {0}, 8] @[-, a, -] data \"lse\"\n"
      "input %6 : bfloat16[1, 8, {0}, 2] @[-, a, -, -] data \"do\"\n"
      "%7 : bfloat16[1, 8, {0}, 2] @[-, -, a, -] \"q\" = reshard(%0) backward layer=0 by=recompute\n"
      "%8 : bfloat16[1, 8, {1}, 2] @[-, -, a, -] \"k\" = reshard(%1) backward layer=0 by=recompute\n"
      "%9 : bfloat16[1, 8, {1}, 2] @[-, -, a, -] \"v\" = reshard(%2) backward layer=0 by=recompute\n"
      "%10 : bfloat16[1, 8, {0}, 2] @[-, a, -, -] \"do\" = add(%6, %6) backward layer=0\n"
      "%11 : bfloat16[1, 8, {0}, 2] @[-, -, a, -] \"do\" = reshard(%10) backward layer=0 by=partition\n"
      "%12 : bfloat16[1, 8, {0}, 2] @[-, -, a, -], %13 : bfloat16[1, 8, {1}, 2] @[-, -, a, -], %14 : bfloat16[1, 8, "
      "{1}, 2] @[-, -, a, -] = attention_gradient(%7, %8, %9, %3, %3, %3, %4, %5, %11) {{scale=0.5, split={{g: a, h: "
      "a}}}} backward layer=0 by=choose_attention\n"
      "%15 : bfloat16[1, 8, {0}, 2] @[-, a, -, -] = reshard(%12) backward layer=0 by=partition\n"
      "%16 : bfloat16[1, 8, {1}, 2] @[-, a, -, -] = reshard(%13) backward layer=0 by=partition\n"
      "%17 : bfloat16[1, 8, {1}, 2] @[-, a, -, -] = reshard(%14) backward layer=0 by=partition\n"
      "output \"dq\" %15\n"
      "output \"dk\" %16\n"
      "output \"dv\" %17\n",
      heads, kv_heads);
}

Graph chunked(const std::string& text, ProgramKind kind = ProgramKind::accumulate_only, bool asked = true,
              std::int64_t tile_rows = 0) {
  Graph graph = parse_graph(text);
  REQUIRE(verify(graph, Stage::placed) == "");
  CompileOptions options;
  options.schedule.tile_mlp = asked;
  options.schedule.tile_rows = tile_rows;
  passes::chunk_heads(graph, {options, kind});
  CHECK(verify(graph, Stage::placed) == "");
  return graph;
}
std::string replaced(std::string text, const std::string& from, const std::string& to) {
  REQUIRE(text.find(from) != std::string::npos);
  return text.replace(text.find(from), from.size(), to);
}
using Names = std::vector<std::string>;

}  // namespace

TEST_CASE("attention works through the heads of a rank, and the output takes the place of q") {
  const Graph graph = chunked(forward(4, 2));
  INFO(print(graph));
  // A KV head a rank: k and v are exchanged once, the two query heads one after the other.
  CHECK(test::op_names(graph) == Names{"add", "reshard", "reshard", "take_heads", "reshard", "attention", "reshard",
                                       "put_heads", "take_heads", "reshard", "attention", "reshard", "put_heads",
                                       "join_rows"});
  const auto &first = graph.ops[3], &second = graph.ops[8];
  CHECK(first.attributes.integer("from") == 0);
  CHECK(second.attributes.integer("from") == 1);
  CHECK(second.attributes.integer("block") == 2);
  CHECK(graph[second.results[0]].shape == Shape{1, 8, 2, 2});
  CHECK(test::layout(graph, graph.ops[9].results[0]) == "[-, -, a, -]");
  CHECK(graph.ops[9].made_by == "partition");
  // The second chunk is read from where the first one's output was put, so that q's buffer can be taken over.
  CHECK(first.operands[0] == graph.ops[0].results[0]);
  CHECK(graph.ops[7].operands[0] == graph.ops[0].results[0]);
  CHECK(second.operands[0] == graph.ops[7].results[0]);
  CHECK(graph.output("o") == graph.ops[12].results[0]);
  CHECK(graph.output("lse") == graph.ops[13].results[0]);
  CHECK(graph.ops[10].operands[1] == graph.ops[1].results[0]);
}

TEST_CASE("KV heads of a rank are exchanged one after the other") {
  const Graph graph = chunked(forward(4, 4));
  INFO(print(graph));
  CHECK(test::op_names(graph) == Names{"add",        "take_heads", "reshard",    "take_heads", "reshard",
                                       "take_heads", "reshard",    "attention",  "reshard",    "put_heads",
                                       "take_heads", "reshard",    "take_heads", "reshard",    "take_heads",
                                       "reshard",    "attention",  "reshard",    "put_heads",  "join_rows"});
  // Query heads of half a group never share a call with those of another KV head.
  const Graph groups = chunked(forward(12, 4));
  CHECK(test::count(groups, "attention") == 4);  // 2 + 1 of each of two KV heads
}

TEST_CASE("dk and dv of a group's heads are summed from chunk to chunk in float32") {
  const Graph graph = chunked(backward(4, 2));
  INFO(print(graph));
  CHECK(test::op_names(graph) == Names{"reshard",
                                       "reshard",
                                       "add",
                                       "take_heads",
                                       "reshard",
                                       "take_heads",
                                       "take_rows",
                                       "take_heads",
                                       "reshard",
                                       "attention_gradient",
                                       "reshard",
                                       "put_heads",
                                       "take_heads",
                                       "reshard",
                                       "take_heads",
                                       "take_rows",
                                       "take_heads",
                                       "reshard",
                                       "attention_gradient_add",
                                       "reshard",
                                       "put_heads",
                                       "cast",
                                       "cast",
                                       "reshard",
                                       "reshard"});
  const Op &one = test::find(graph, "attention_gradient"), &more = test::find(graph, "attention_gradient_add");
  CHECK(graph[one.results[0]].dtype == DType::bfloat16);
  CHECK(graph[one.results[1]].dtype == DType::float32);
  CHECK(more.operands[9] == one.results[1]);
  CHECK(more.operands[10] == one.results[2]);
  CHECK(graph[graph.output("dk")].dtype == DType::bfloat16);
  // dq takes the place of the output's gradient.
  CHECK(test::find(graph, "put_heads").operands[0] == graph.ops[2].results[0]);
}

TEST_CASE("of whole groups dk and dv are done with their chunk, and take the place of k and v") {
  const Graph graph = chunked(backward(4, 4));
  INFO(print(graph));
  CHECK(test::count(graph, "attention_gradient") == 2);
  CHECK(test::count(graph, "attention_gradient_add") == 0);
  CHECK(test::count(graph, "put_heads") == 6);
  // k and v that the forward pass kept as attention reads them: dk and dv take their heads there, and travel together.
  const std::string kept =
      replaced(replaced(backward(4, 4), "\"k\" = reshard(%1) backward layer=0 by=recompute",
                        "\"k\" = reshard(%1) forward layer=0 by=partition"),
               "\"v\" = reshard(%2) backward layer=0 by=recompute", "\"v\" = reshard(%2) forward layer=0 by=partition");
  const Graph stays = chunked(kept);
  INFO(print(stays));
  CHECK(test::count(stays, "put_heads") == 6);
  CHECK(test::count(stays, "reshard") == 2 + 2 * 3 + 2);  // k, v; of each chunk q, do, dq; dk, dv
}

TEST_CASE("attention stays whole where nobody asks, without an exchange, and where others read what it exchanges") {
  const auto untouched = [](const std::string& text, ProgramKind kind = ProgramKind::accumulate_only,
                            bool asked = true) {
    return print(chunked(text, kind, asked)) == print(parse_graph(text));
  };
  CHECK(untouched(forward(4, 2), ProgramKind::accumulate_only, false));
  CHECK(untouched(backward(4, 2), ProgramKind::accumulate_only, false));
  CHECK(untouched(forward(4, 2), ProgramKind::evaluate));
  CHECK(untouched(forward(2, 2)));  // a head a rank
  CHECK(print(chunked(forward(4, 2), ProgramKind::accumulate_only, true, 1)) == print(parse_graph(forward(4, 2))));
  CHECK_FALSE(untouched(forward(4, 2)));
  CHECK(untouched(forward(4, 2) + "output \"heads\" %9\n"));
  CHECK(untouched(backward(4, 2) + "output \"heads\" %12\n"));
  // What is read by heads anyhow is taken from there, and the exchange stays.
  const Graph kept = chunked(forward(4, 2) + "output \"q\" %6\n");
  CHECK(kept.ops[1].results[0] == kept.output("q"));
  // One device's attention, and blocks of a ring.
  std::string whole = forward(4, 2);
  for (std::size_t at; (at = whole.find("[-, a, -, -]")) != std::string::npos;) whole.replace(at, 12, "[-, -, a, -]");
  CHECK(untouched(whole));
}
