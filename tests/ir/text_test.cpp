// The text form: what is printed reads back as the same graph, and complaints name the line.
#include <catch2/catch.hpp>
#include <set>

#include "base/error.h"
#include "ir/graph.h"
#include "ir/op_definition.h"
#include "tests/passes/small_models.h"

using namespace longhaul;

namespace {

void check_equal(const Graph& a, const Graph& b) {
  REQUIRE(a.name == b.name);
  REQUIRE(a.mesh == b.mesh);
  REQUIRE(a.ops.size() == b.ops.size());
  const auto check_value = [&](ValueId id) {
    const Value &x = a[id], &y = b[id];
    INFO("%" << id);
    REQUIRE(x.name == y.name);
    REQUIRE(x.shape == y.shape);
    REQUIRE(x.dtype == y.dtype);
    REQUIRE(x.layout == y.layout);
    REQUIRE(x.primal == y.primal);
    REQUIRE(x.pinned == y.pinned);
    REQUIRE(x.role == y.role);
  };
  REQUIRE(a.inputs.size() == b.inputs.size());
  for (std::size_t i = 0; i < a.inputs.size(); ++i) {
    REQUIRE(a.inputs[i].name == b.inputs[i].name);
    REQUIRE(a.inputs[i].value == b.inputs[i].value);
    REQUIRE(a.inputs[i].state == b.inputs[i].state);
    check_value(a.inputs[i].value);
  }
  for (std::size_t i = 0; i < a.ops.size(); ++i) {
    const Op &x = a.ops[i], &y = b.ops[i];
    INFO(print(a, x));
    REQUIRE(x.definition == y.definition);
    REQUIRE(x.signature->operands == y.signature->operands);
    REQUIRE(x.signature->results == y.signature->results);
    REQUIRE(x.operands == y.operands);
    REQUIRE(x.results == y.results);
    REQUIRE(x.attributes == y.attributes);
    REQUIRE(x.phase == y.phase);
    REQUIRE(x.layer == y.layer);
    REQUIRE(x.made_by == y.made_by);
    for (ValueId result : x.results) check_value(result);
  }
  REQUIRE(a.outputs.size() == b.outputs.size());
  for (std::size_t i = 0; i < a.outputs.size(); ++i) {
    REQUIRE(a.outputs[i].name == b.outputs[i].name);
    REQUIRE(a.outputs[i].state == b.outputs[i].state);
    REQUIRE(a.outputs[i].value == b.outputs[i].value);
  }
}

std::string complaint(const std::string& text) {
  try {
    parse_graph(text);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

const std::string header =
    "graph \"g\" mesh(dp=2, sp=2)\n"
    "input %0 : float64[4, 8] @[dp, sp] data \"x\"\n"
    "\n"
    "# a comment\n";

}  // namespace

TEST_CASE("graphs of every program and pass read back as they were") {
  const auto request = test::request(test::qwen3_like(), test::mesh(2, 2), 2, DType::bfloat16);
  CompileRequest reduced = request;
  reduced.options.precision.gradient_reduce = DType::bfloat16;
  for (ProgramKind kind : request.kinds) {
    Graph graph = initial_graph(reduced, kind);
    const PassObserver observer = [&](const Pass* pass, const Graph& one) {
      INFO(name_of(kind) << " after " << (pass ? pass->name : "nothing"));
      // What `count` starts from has lost the inputs of the ops that its first pass drops.
      if (!pass && kind == ProgramKind::count) return;
      const std::string text = print(one);
      const Graph read = parse_graph(text);
      check_equal(one, read);
      REQUIRE(print(read) == text);
    };
    run_passes(graph, {reduced.options, kind}, 0, static_cast<int>(pipeline().size()), observer);
  }
}

TEST_CASE("attributes of every type, odd numbers and quotes read back") {
  Graph graph;
  graph.name = "a \"quoted\" \\ name";
  graph.mesh = Mesh({{"dp", 2}, {"one", 1}, {"ulysses", 3}});
  const ValueId x = graph.add_input(StateKey{Role::parameter, "in \"x\""}, {6, 3}, DType::float64);
  graph[x].layout.dimensions[0] = {{2, 0}, 5};
  graph[x].layout.partial = 2;
  graph[x].pinned = Layout::whole(2);
  graph[x].pinned->flat = {0, 2};
  const ValueId y = graph.add_value("", {6, 3}, DType::bfloat16);
  graph[y].primal = x;
  Op op;
  op.definition = find_op("scale");
  op.operands = {x};
  op.results = {y};
  op.signature = graph.signature("*->*", op.operands);
  op.layer = 17;
  op.phase = Phase::update;
  op.made_by = "someone";
  op.attributes = {{"integer", std::int64_t{-3}},
                   {"huge", std::int64_t{9223372036854775807}},
                   {"third", 1.0 / 3},
                   {"tiny", 5e-324},
                   {"large", 1e300},
                   {"whole", 2.0},
                   {"negative", -0.0},
                   {"infinite", -std::numeric_limits<double>::infinity()},
                   {"text", std::string("with \"quotes\", commas} and \\")},
                   {"empty", std::string()},
                   {"list", std::vector<double>{1, -2.5, 1e-9}},
                   {"nothing", std::vector<double>{}},
                   {"axes", AxisList{2, 0}},
                   {"none", AxisList{}},
                   {"split", LetterSplits{{'t', {{2, 0}, 3}}, {'h', {{0}, 0}}, {'s', {}}}},
                   {"unsplit", LetterSplits{}}};
  graph.ops = {op};
  graph.outputs = {{"out \"put\"", y}, {"again", y}, {StateKey{Role::gradient, "in \"x\""}, y}};
  const Graph read = parse_graph(print(graph));
  check_equal(graph, read);
  CHECK(std::signbit(read.ops[0].attributes.number("negative")));
  CHECK(print(graph).find("split={h: dp, s: -, t: ulysses.dp+3}") != std::string::npos);
}

TEST_CASE("state is known by role and parameter, its buffer by a name made of them") {
  const Graph graph = parse_graph(
      "graph \"g\" mesh(dp=2)\n"
      "input %0 : float64[4] @[-] parameter \"w\"\n"
      "input %1 : float64[4] @[-] accumulator \"w\"\n"
      "input %2 : float64[] @[] scalar \"gradient.w\"\n"  // a name alone says nothing
      "%3 : float64[4] @[-] = add(%0, %1) backward\n"
      "output gradient \"w\" %3\n"
      "output \"accumulator.w\" %3\n");
  CHECK(graph.inputs[0].state == StateKey{Role::parameter, "w"});
  CHECK(graph.inputs[1].state == StateKey{Role::accumulator, "w"});
  CHECK_FALSE(graph.inputs[2].state);
  CHECK(graph.input("w") == 0);
  CHECK(graph.input("accumulator.w") == 1);
  CHECK(graph.outputs[0].is(Role::gradient));
  CHECK_FALSE(graph.outputs[1].is(Role::accumulator));
  // Every kind of state of a parameter has a buffer of its own.
  std::set<std::string> names;
  for (int role = 0; role < roles; ++role)
    if (is_state(static_cast<Role>(role))) CHECK(names.insert(name_of(StateKey{static_cast<Role>(role), "w"})).second);
  CHECK(names.size() == 9);
  CHECK_THROWS_AS(name_of(StateKey{Role::data, "w"}), std::logic_error);
}

TEST_CASE("complaints of the parser name the line") {
  CHECK(complaint(header + "%1 : float64[4, 8] @[dp, sp] = scale(%0) {factor=2.0} forward\n").empty());
  const auto refused = [](const std::string& line, const std::string& reason) {
    const std::string said = complaint(header + line + "\n");
    INFO(line << "\n" << said);
    CHECK(said.find("line 5") != std::string::npos);
    CHECK(said.find(reason) != std::string::npos);
  };
  refused("%1 : float64[4, 8] @[dp, sp] = no_such_op(%0) forward", "no op 'no_such_op'");
  refused("%1 : float12[4, 8] @[dp, sp] = scale(%0) forward", "no dtype 'float12'");
  refused("%1 : float64[4, 8] @[dp, tp] = scale(%0) forward", "no mesh axis 'tp'");
  refused("%1 : float64[4, 8] @[dp] = scale(%0) forward", "layout and shape");
  refused("%1 : float64[4, 8] @[dp.dp, sp] = scale(%0) forward", "twice");
  refused("%1 : float64[4, 8] @[dp, sp] = scale(%0 forward", "expected ','");
  refused("%1 : float64[4, 8] @[dp, sp] = scale(%0) {factor=} forward", "expected an integer");
  refused("%1 : float64[4, 8] @[dp, sp] = scale(%0) {factor=2.0} forward garbage", "unexpected text");
  refused("%1 : float64[4, 8] @[dp, sp] = scale(%0) {split={A: tp}} forward", "no mesh axis 'tp'");
  refused("%1 : float64[4, 8] @[dp, sp] = scale(%0) {split={AB: dp}} forward", "'AB' is no letter");
  refused("%1 : float64[4, 8] @[dp, sp] = scale(%0) {split={A: dp, A: sp}} forward", "letter A twice");
  refused("%1 : float64[4, 8] @[dp, sp] = scale(%0) {split={A dp}} forward", "expected ':'");
  refused("%1 : float64[4, 8] @[dp, sp] = scale(%7) forward", "%7 is not defined");
  refused("%1 : float64[4, 8] @[dp, sp] = scale(%0, %0) forward", "does not fit these operands");
  refused("%1 : float64[] @[] = einsum \"bs,bs\"(%0, %0) forward", "signature 'bs,bs'");
  refused("%1 : float64[4] @[-] = einsum \"bsx,bs->b\"(%0, %0) forward", "bsx");
  refused("%1 : float64[4] @[-] = einsum \"b\xc3\xa4,bs->b\"(%0, %0) forward", "signature");
  refused("%0 : float64[4, 8] @[dp, sp] = scale(%0) forward", "defined twice");
  refused("%1 : float64[4, x] @[dp, sp] = scale(%0) forward", "expected an integer");
  refused("%-1 : float64[4, 8] @[dp, sp] = scale(%0) forward", "out of range");
  // 18 GB of values for one line, before there was a bound by the length of the text.
  refused("%99999999 : float64[4, 8] @[dp, sp] = scale(%0) forward", "out of range");
  refused("output \"y\" %9", "%9 is not defined");
  refused("output y %0", "expected '\"'");
  refused("output data \"y\" %0", "an output of role data");
  refused("output gradient \"\" %0", "gradient without the name of its parameter");
  refused("input %1 : float64[4] @[-] accumulator \"\"", "accumulator without the name of its parameter");
  refused("output \"y %0", "unfinished text");
  refused("graph \"again\" mesh(dp=2)", "second header");
  refused("input %1 : float64[4, 8] @[dp, sp] \"y\" primal=@3", "expected '%'");
  CHECK(complaint("input %0 : float64[2] @[-] \"x\"\n").find("line 1") != std::string::npos);  // no header
  CHECK(complaint("graph \"g\" mesh(dp=2, dp=2)\n").find("line 1") != std::string::npos);
  CHECK(complaint("graph \"g\" mesh(dp=0)\n").find("line 1") != std::string::npos);
  CHECK(complaint("").find("no header") != std::string::npos);
}

TEST_CASE("the graph as GraphViz text names every op and layout") {
  Graph graph =
      parse_graph(header + "%1 : float64[4, 8] @[dp, sp] = scale(%0) {factor=2.0} forward layer=3\noutput \"y\" %1\n");
  const std::string dot = print_dot(graph);
  CHECK(dot.find("scale") != std::string::npos);
  CHECK(dot.find("[dp, sp]") != std::string::npos);
  CHECK(dot.find("in0 -> op0") != std::string::npos);
  CHECK(dot.find("op0 -> \"out y\"") != std::string::npos);
}
