// expand_window: which rows a window reaches, the ops that bring them, and when it does nothing.
#include <algorithm>
#include <catch2/catch.hpp>
#include <set>

#include "ir/verifier.h"
#include "passes/token_order.h"
#include "tests/passes/pass_text.h"
#include "tests/passes/small_models.h"

using namespace longhaul;

namespace {

// The place in the sequence of every slot, by what the orders are said to be.
std::vector<std::int64_t> places(TokenOrder order, std::int64_t ranks, std::int64_t padded) {
  std::vector<std::int64_t> all;
  const std::int64_t chunk = padded / (2 * ranks);
  for (std::int64_t i = 0; i < padded; ++i) all.push_back(i);
  if (order == TokenOrder::contiguous) return all;
  all.clear();
  for (std::int64_t rank = 0; rank < ranks; ++rank)
    for (const std::int64_t c : {rank, 2 * ranks - 1 - rank})
      for (std::int64_t i = 0; i < chunk; ++i) all.push_back(c * chunk + i);
  return all;
}

Graph model(const Mesh& mesh, std::int64_t window, TokenOrder order, ProgramKind kind, CompileRequest& request,
            int until) {
  TransformerSpec spec = test::llama_like();
  LayerGroup windowed = spec.layers[0];
  windowed.repeat = 1;
  windowed.layer.attention.window = window;
  spec.layers = {{1, spec.layers[0].layer}, windowed};
  request = test::request(spec, mesh, 1);
  request.options.placement.token_order = order;
  Graph graph = specification(request, kind);
  run_passes(graph, {request.options, kind}, specification_passes(), until);
  return graph;
}

int pass_index(std::string_view name) {
  for (std::size_t i = 0; i < pipeline().size(); ++i)
    if (pipeline()[i].name == name) return static_cast<int>(i);
  return -1;
}

const std::string attention_text = R"(graph "g" mesh(ring=2)
input %0 : bfloat16[2, 8, 4, 2] @[-, ring, -, -] data "q"
input %1 : bfloat16[2, 8, 2, 2] @[-, ring, -, -] data "k"
input %2 : bfloat16[2, 8, 2, 2] @[-, ring, -, -] data "v"
input %3 : int32[2, 8] @[-, ring] data "index"
input %4 : int32[2, 8] @[-, ring] data "key_start"
input %5 : bfloat16[2, 8, 4, 2] @[-, ring, -, -] data "do"
%6 : bfloat16[2, 8, 4, 2] @[-, ring, -, -], %7 : float32[2, 4, 8] @[-, -, ring] = attention(%0, %1, %2, %3, %3, %4) {ATTRIBUTES} forward layer=0 by=choose_attention
%11 : float32[2, 8, 4] @[-, ring, -] = attention_delta(%6, %5) backward layer=0
%8 : bfloat16[2, 8, 4, 2] @[-, ring, -, -] primal=%0, %9 : bfloat16[2, 8, 2, 2] @[-, ring, -, -] primal=%1, %10 : bfloat16[2, 8, 2, 2] @[-, ring, -, -] primal=%2 = attention_gradient(%0, %1, %2, %3, %3, %4, %11, %7, %5) {ATTRIBUTES} backward layer=0 by=choose_attention
output "dq" %8
output "dk" %9
output "dv" %10
)";
Graph attention(const std::string& attributes) {
  std::string text = attention_text;
  for (std::size_t at; (at = text.find("ATTRIBUTES")) != std::string::npos;) text.replace(at, 10, attributes);
  return parse_graph(text);
}
std::string expanded(const std::string& attributes, TokenOrder order = TokenOrder::contiguous) {
  Graph graph = attention(attributes);
  CompileOptions options;
  options.placement.token_order = order;
  passes::expand_window(graph, {options, ProgramKind::accumulate_only});
  CHECK(verify(graph, Stage::placed) == "");
  return print(graph);
}

}  // namespace

TEST_CASE("the rows that a window reaches are those that some query sees") {
  for (const TokenOrder order : {TokenOrder::contiguous, TokenOrder::zigzag})
    for (const int ranks : {1, 2, 3, 4})
      for (const int inner : {1, 2, 3})  // ranks that share what one of these holds
        for (const std::int64_t window : {1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 14, 24, 25, 40, 71, 72, 100}) {
          const std::int64_t padded = 72, blocks = ranks * inner, block = padded / blocks;
          INFO(name_of(order) << " ranks " << ranks << " x " << inner << " window " << window);
          const auto place = places(order, ranks, padded);
          std::vector<std::pair<int, std::int64_t>> wanted;  // step, row
          for (int step = static_cast<int>(blocks) - 1; step > 0; --step)
            for (std::int64_t row = 0; row < block; ++row) {
              bool seen = false;
              for (std::int64_t i = 0; i < blocks; ++i)
                for (std::int64_t q = 0; q < block; ++q) {
                  const std::int64_t query = place[static_cast<std::size_t>(i * block + q)],
                                     key = place[static_cast<std::size_t>((i - step + blocks) % blocks * block + row)];
                  seen |= key <= query && key > query - window;
                }
              if (seen) wanted.push_back({step, row});
            }
          const auto reached = reached_rows(order, ranks, padded, static_cast<int>(blocks), window);
          const bool all = static_cast<std::int64_t>(wanted.size()) == (blocks - 1) * block;
          REQUIRE(reached.has_value() != all);
          if (all) continue;
          std::vector<std::pair<int, std::int64_t>> found;
          for (const BlockRows& part : *reached)
            for (std::int64_t row = part.from; row < part.from + part.rows; ++row) found.push_back({part.step, row});
          CHECK(found == wanted);
          // What the documentation says of the usual cases.
          if (order == TokenOrder::contiguous || ranks == 1)
            CHECK(static_cast<std::int64_t>(found.size()) == std::min(window - 1, (blocks - 1) * block));
          else if (inner == 1 && window - 1 <= block / 2)
            CHECK(static_cast<std::int64_t>(found.size()) == 2 * (window - 1));
        }
  CHECK_FALSE(reached_rows(TokenOrder::balanced, 2, 8, 2, 2));
}

TEST_CASE("rows of blocks are taken, joined and added on one device as on ranks") {
  // 2 sequences of 2 blocks of 3 rows of 2 elements.
  const Graph graph = parse_graph(R"(graph "g" mesh(a=2)
input %0 : float64[2, 6, 2] @[-, a, -] data "x"
input %5 : int32[2, 6] @[-, a] data "index"
%1 : float64[2, 4, 2] @[-, a, -] = take_rows "btg->bug"(%0) {blocks=2, from=1} forward by=test
%2 : float64[2, 4, 2] @[-, a+1, -] = reshard(%1) forward by=test
%3 : float64[2, 10, 2] @[-, a, -] = join_rows "btg,bug->bvg"(%2, %0) {blocks=2, steps=[1.0, 0.0]} forward by=test
%4 : float64[2, 6, 2] @[-, a, -] = add_rows "btg,bug->btg"(%0, %2) {blocks=2, from=0, step=1} forward by=test
%6 : int32[2, 2] @[-, a] = take_rows "bt->bu"(%5) {blocks=2, from=2} forward by=test
output "taken" %1
output "joined" %3
output "added" %4
output "last" %6
)");
  REQUIRE(verify(graph, Stage::placed) == "");
  HostTensor values({{2, 6, 2}, DType::float64}), index({{2, 6}, DType::int32});
  for (std::int64_t i = 0; i < 24; ++i) values.set(i, static_cast<double>(i));
  for (std::int64_t i = 0; i < 12; ++i) index.set(i, static_cast<double>(i));
  Interpreter interpreter({});
  const auto results = interpreter.run(graph, {{"x", values}, {"index", index}});
  const auto x = [&](std::int64_t b, std::int64_t t, std::int64_t g) { return values.at((b * 6 + t) * 2 + g); };
  for (std::int64_t b = 0; b < 2; ++b)
    for (std::int64_t block = 0; block < 2; ++block) {
      CHECK(results.at("last").at(b * 2 + block) == static_cast<double>(b * 6 + block * 3 + 2));
      for (std::int64_t g = 0; g < 2; ++g) {
        const std::int64_t other = 1 - block;
        for (std::int64_t r = 0; r < 2; ++r)
          CHECK(results.at("taken").at((b * 4 + block * 2 + r) * 2 + g) == x(b, block * 3 + 1 + r, g));
        for (std::int64_t r = 0; r < 5; ++r)
          CHECK(results.at("joined").at((b * 10 + block * 5 + r) * 2 + g) ==
                (r < 2 ? x(b, other * 3 + 1 + r, g) : x(b, block * 3 + r - 2, g)));
        for (std::int64_t r = 0; r < 3; ++r)
          CHECK(results.at("added").at((b * 6 + block * 3 + r) * 2 + g) ==
                x(b, block * 3 + r, g) + (r < 2 ? x(b, other * 3 + 1 + r, g) : 0));
      }
    }
}

TEST_CASE("a window becomes the rows before a piece, attention and the rows' gradients sent home") {
  // Pieces of 4, a window of 3: the last 2 rows. Kept for backward, so that only gradients move there.
  const std::string text = expanded("keeps_keys=1, scale=0.5, split={s: ring, t: ring}, window=3");
  const std::size_t from = text.find("%12 :"), to = text.find("output ");
  CHECK(
      text.substr(from, to - from) ==
      R"(%12 : bfloat16[2, 4, 2, 2] @[-, ring, -, -] "k" = take_rows "btgd->bugd"(%1) {blocks=2, from=2} forward layer=0 by=expand_window
%13 : bfloat16[2, 4, 2, 2] @[-, ring+1, -, -] "k" = reshard(%12) forward layer=0 by=expand_window
%14 : bfloat16[2, 12, 2, 2] @[-, ring, -, -] "k" = join_rows "btgd,bugd->bvgd"(%13, %1) {blocks=2, steps=[1.0, 0.0]} forward layer=0 by=expand_window
%15 : bfloat16[2, 4, 2, 2] @[-, ring, -, -] "v" = take_rows "btgd->bugd"(%2) {blocks=2, from=2} forward layer=0 by=expand_window
%16 : bfloat16[2, 4, 2, 2] @[-, ring+1, -, -] "v" = reshard(%15) forward layer=0 by=expand_window
%17 : bfloat16[2, 12, 2, 2] @[-, ring, -, -] "v" = join_rows "btgd,bugd->bvgd"(%16, %2) {blocks=2, steps=[1.0, 0.0]} forward layer=0 by=expand_window
%18 : int32[2, 4] @[-, ring] "index" = take_rows "bt->bu"(%3) {blocks=2, from=2} forward layer=0 by=expand_window
%19 : int32[2, 4] @[-, ring+1] "index" = reshard(%18) forward layer=0 by=expand_window
%20 : int32[2, 12] @[-, ring] "index" = join_rows "bt,bu->bv"(%19, %3) {blocks=2, steps=[1.0, 0.0]} forward layer=0 by=expand_window
%6 : bfloat16[2, 8, 4, 2] @[-, ring, -, -], %7 : float32[2, 4, 8] @[-, -, ring] = attention_block(%0, %14, %17, %3, %20, %4) {blocks=2, scale=0.5, split={s: ring, t: ring}, step=0, window=3} forward layer=0 by=expand_window
%11 : float32[2, 8, 4] @[-, ring, -] = attention_delta(%6, %5) backward layer=0
%23 : bfloat16[2, 12, 2, 2] @[-, ring, -, -] "k" = join_rows "btgd,bugd->bvgd"(%13, %1) {blocks=2, steps=[1.0, 0.0]} backward layer=0 by=expand_window
%24 : bfloat16[2, 12, 2, 2] @[-, ring, -, -] "v" = join_rows "btgd,bugd->bvgd"(%16, %2) {blocks=2, steps=[1.0, 0.0]} backward layer=0 by=expand_window
%8 : bfloat16[2, 8, 4, 2] @[-, ring, -, -] primal=%0, %26 : float32[2, 12, 2, 2] @[-, ring, -, -], %27 : float32[2, 12, 2, 2] @[-, ring, -, -] = attention_block_gradient(%0, %23, %24, %3, %20, %4, %11, %7, %5) {blocks=2, scale=0.5, split={s: ring, t: ring}, step=0, window=3} backward layer=0 by=expand_window
%28 : float32[2, 4, 2, 2] @[-, ring, -, -] = take_rows "btgd->bugd"(%26) {blocks=2, from=0} backward layer=0 by=expand_window
%29 : float32[2, 4, 2, 2] @[-, ring+1, -, -] = reshard(%28) backward layer=0 by=expand_window
%30 : float32[2, 8, 2, 2] @[-, ring, -, -] = take_rows "btgd->bugd"(%26) {blocks=2, from=2} backward layer=0 by=expand_window
%31 : float32[2, 8, 2, 2] @[-, ring, -, -] = add_rows "btgd,bugd->btgd"(%30, %29) {blocks=2, from=2, step=1} backward layer=0 by=expand_window
%9 : bfloat16[2, 8, 2, 2] @[-, ring, -, -] primal=%1 = cast(%31) backward layer=0 by=expand_window
%33 : float32[2, 4, 2, 2] @[-, ring, -, -] = take_rows "btgd->bugd"(%27) {blocks=2, from=0} backward layer=0 by=expand_window
%34 : float32[2, 4, 2, 2] @[-, ring+1, -, -] = reshard(%33) backward layer=0 by=expand_window
%35 : float32[2, 8, 2, 2] @[-, ring, -, -] = take_rows "btgd->bugd"(%27) {blocks=2, from=2} backward layer=0 by=expand_window
%36 : float32[2, 8, 2, 2] @[-, ring, -, -] = add_rows "btgd,bugd->btgd"(%35, %34) {blocks=2, from=2, step=1} backward layer=0 by=expand_window
%10 : bfloat16[2, 8, 2, 2] @[-, ring, -, -] primal=%2 = cast(%36) backward layer=0 by=expand_window
)");
}

TEST_CASE("keys that are not kept are fetched again") {
  const std::string kept = "keeps_keys=1, scale=0.5, split={s: ring, t: ring}, window=3",
                    again = "scale=0.5, split={s: ring, t: ring}, window=3";
  const Graph one = parse_graph(expanded(kept)), other = parse_graph(expanded(again));
  CHECK(test::count(one, "reshard") == 2 + 1 + 2);        // K and V, indices, dK and dV
  CHECK(test::count(other, "reshard") == 2 + 1 + 2 + 2);  // K and V once more
  CHECK(test::count(other, "attention_block") == 1);
  CHECK(test::count(other, "attention") + test::count(other, "attention_gradient") == 0);
}

TEST_CASE("the verifier refuses rows of another rank than the op says") {
  Graph graph = parse_graph(expanded("scale=0.5, split={s: ring, t: ring}, window=3"));
  for (const std::string name : {"join_rows", "add_rows"}) {
    Graph broken = graph;
    for (Op& op : broken.ops) {
      if (op.is("join_rows") && name == "join_rows") op.attributes.set("steps", std::vector<double>{0, 0});
      if (op.is("add_rows") && name == "add_rows") op.attributes.set("step", std::int64_t{0});
    }
    CHECK_THAT(verify(broken, Stage::placed),
               Catch::Contains(name) && Catch::Contains("ring+1") && Catch::Contains("the rule needs"));
  }
}

TEST_CASE("a window of one key moves nothing") {
  const Graph graph = parse_graph(expanded("scale=0.5, split={s: ring, t: ring}, window=1"));
  CHECK(test::op_names(graph) ==
        std::vector<std::string>{"attention_block", "attention_delta", "attention_block_gradient"});
}

TEST_CASE("attention is left alone without a window, with one that reaches all, or in an order it does not know") {
  const auto unchanged = [](const std::string& attributes, TokenOrder order) {
    return expanded(attributes, order) == print(attention(attributes));
  };
  CHECK(unchanged("scale=0.5, split={s: ring, t: ring}", TokenOrder::contiguous));
  CHECK(unchanged("scale=0.5, split={s: ring, t: ring}, window=5", TokenOrder::contiguous));
  CHECK_FALSE(unchanged("scale=0.5, split={s: ring, t: ring}, window=4", TokenOrder::contiguous));
  CHECK(unchanged("scale=0.5, split={s: ring, t: ring}, window=3", TokenOrder::zigzag));
  CHECK_FALSE(unchanged("scale=0.5, split={s: ring, t: ring}, window=2", TokenOrder::zigzag));
  CHECK(unchanged("scale=0.5, split={s: ring, t: ring}, window=2", TokenOrder::balanced));
}

TEST_CASE("gathered layers with a window are marked for it, others not") {
  const Mesh mesh({{"gather", 2}, {"ulysses", 2}});
  for (const auto& [window, order, marked] :
       {std::tuple<std::int64_t, TokenOrder, bool>{3, TokenOrder::contiguous, true},
        {4, TokenOrder::contiguous, true},
        {5, TokenOrder::contiguous, false},  // all 4 rows of the other piece
        {2, TokenOrder::zigzag, true},
        {3, TokenOrder::zigzag, false},
        {2, TokenOrder::balanced, false}}) {
    INFO(window << " " << name_of(order));
    CompileRequest request;
    const Graph graph =
        model(mesh, window, order, ProgramKind::accumulate_only, request, pass_index("choose_attention") + 1);
    for (const Op& op : graph.ops) {
      if (!op.is("attention") && !op.is("attention_gradient")) continue;
      const bool here = marked && op.layer == 1;
      CHECK(op.attributes.split().axes('h') == AxisList{1});
      CHECK(op.attributes.split().axes('s') == AxisList{0});
      CHECK(op.attributes.split().axes('t') == (here ? AxisList{0} : AxisList{}));
      CHECK(op.attributes.integer("keeps_keys") == (here ? 1 : 0));
    }
  }
}

TEST_CASE("expanding windows changes no program's meaning") {
  Interpreter interpreter({});
  for (const std::string axis : {"ring", "gather"})
    for (const int inner : {1, 2})
      for (const TokenOrder order : {TokenOrder::contiguous, TokenOrder::zigzag})
        for (const std::int64_t window : {1, 2, 3, 4, 6}) {
          const Mesh mesh({{axis, 4 / inner}, {"ulysses", inner}});
          CompileRequest request;
          Graph graph = model(mesh, window, order, ProgramKind::accumulate_only, request, pass_index("expand_window"));
          auto inputs = test::random_inputs(graph);
          // The buffers hold the sequence in the order of the run.
          const auto place = places(order, 4 / inner, request.sequence);
          for (std::int64_t i = 0; i < request.batch * request.sequence; ++i) {
            const std::int64_t token = place[static_cast<std::size_t>(i % request.sequence)];
            for (const char* name : {"index", "key_start", "position"}) {
              const double start = token < 3 ? 0 : 3, at = static_cast<double>(token);  // two documents
              inputs.at(name).set(i, name[0] == 'i' ? at : name[0] == 'k' ? start : at - start);
            }
          }
          const auto before = interpreter.run(graph, inputs);
          passes::expand_window(graph, {request.options, ProgramKind::accumulate_only});
          INFO(axis << " " << mesh.text() << " " << name_of(order) << " window " << window);
          REQUIRE(verify(graph, Stage::placed) == "");
          for (const auto& [name, value] : interpreter.run(graph, inputs)) {
            INFO(name);
            CHECK(test::difference(value, before.at(name)) <= 1e-12);
          }
        }
}
