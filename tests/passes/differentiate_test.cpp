// loss, differentiate and optimizer: the specification of each program.
#include <catch2/catch.hpp>
#include <set>

#include "ir/builder.h"
#include "ir/verifier.h"
#include "passes/pass.h"
#include "tests/passes/pass_text.h"
#include "tests/passes/small_models.h"

using namespace longhaul;

namespace {

std::set<std::string> names(const std::vector<Binding>& bindings) {
  std::set<std::string> set;
  for (const auto& binding : bindings) set.insert(binding.name);
  return set;
}

CompileOptions options_for(const std::vector<std::pair<std::string, Shape>>& parameters) {
  CompileOptions options;
  for (const auto& [name, shape] : parameters) options.meaning.parameters.push_back({name, shape, true});
  return options;
}

// loss = sum of squares would need an op without a gradient; a contraction with itself serves.
const std::string header =
    "graph \"g\" mesh(dp=1)\n"
    "input %0 : float64[3] @[-] data \"x\"\n"
    "input %1 : float64[3] @[-] parameter \"w\"\n"
    "input %2 : float64[3] @[-] parameter \"u\"\n";

Graph run(const std::string& lines, const CompileOptions& options, ProgramKind kind) {
  Graph graph = parse_graph(header + lines);
  passes::differentiate(graph, {options, kind});
  passes::optimizer(graph, {options, kind});
  REQUIRE(verify(graph, Stage::one_device) == "");
  return graph;
}

std::map<std::string, HostTensor> evaluate(const Graph& graph) {
  std::map<std::string, HostTensor> inputs;
  for (const auto& input : graph.inputs) {
    HostTensor tensor({graph[input.value].shape, DType::float64});
    const double base = input.name == "x" ? 1 : input.name == "w" ? 10 : input.name == "u" ? 100 : 1000;
    for (std::int64_t i = 0; i < tensor.type.count(); ++i)
      tensor.set(i, base + static_cast<double>(i) + (input.name == "accumulator.u" ? 500 : 0));
    inputs[input.name] = tensor;
  }
  return Interpreter({}).run(graph, inputs);
}

}  // namespace

TEST_CASE("a value used often gets the sum of its gradients") {
  const auto options = options_for({{"w", {3}}});
  // loss = w·x + w·w + 3 w·x
  const Graph graph =
      run("%3 : float64[] @[] = einsum \"a,a->\"(%1, %0) forward\n"
          "%4 : float64[] @[] = einsum \"a,a->\"(%1, %1) forward\n"
          "%5 : float64[3] @[-] = scale(%1) {factor=3.0} forward\n"
          "%6 : float64[] @[] = einsum \"a,a->\"(%5, %0) forward\n"
          "%7 : float64[] @[] = add(%3, %4, %6) forward\n"
          "output \"loss\" %7\n",
          options, ProgramKind::accumulate_only);
  CHECK(names(graph.outputs) == std::set<std::string>{"loss", "gradient.w"});
  const auto outputs = evaluate(graph);
  for (std::int64_t i = 0; i < 3; ++i)
    CHECK(outputs.at("gradient.w").at(i) == 4 * (1 + static_cast<double>(i)) + 2 * (10 + static_cast<double>(i)));
}

TEST_CASE("a parameter that no gradient reaches is a defect") {
  const auto options = options_for({{"w", {3}}, {"u", {3}}});
  CHECK_THROWS_WITH(run("%3 : float64[] @[] = einsum \"a,a->\"(%1, %0) forward\noutput \"loss\" %3\n", options,
                        ProgramKind::accumulate_only),
                    Catch::Contains("no gradient reaches parameter u"));
}

TEST_CASE("parameters with one gradient between them keep their own accumulators") {
  const auto options = options_for({{"w", {3}}, {"u", {3}}});
  // d loss / d (w + u) is the gradient of both
  const std::string lines =
      "%3 : float64[3] @[-] = add(%1, %2) forward\n"
      "%4 : float64[] @[] = einsum \"a,a->\"(%3, %0) forward\n"
      "output \"loss\" %4\n";
  for (ProgramKind kind : {ProgramKind::accumulate_middle, ProgramKind::accumulate_last}) {
    const auto outputs = evaluate(run(lines, options, kind));
    const std::string prefix = kind == ProgramKind::accumulate_middle ? "accumulator." : "gradient.";
    for (std::int64_t i = 0; i < 3; ++i) {
      const double x = 1 + static_cast<double>(i), accumulated = 1000 + static_cast<double>(i);
      CHECK(outputs.at(prefix + "w").at(i) == accumulated + x);
      CHECK(outputs.at(prefix + "u").at(i) == accumulated + 500 + x);
    }
  }
}

TEST_CASE("tied embeddings: one parameter, the sum of two gradients") {
  const CompileRequest request = test::request(test::gpt2_like(), test::mesh(1, 1), 0);
  const Graph graph = specification(request, ProgramKind::accumulate_only);
  const ValueId gradient = graph.output("gradient.embedding.tokens");
  REQUIRE(gradient != no_value);
  const Op& sum = graph.ops[static_cast<std::size_t>(definitions(graph)[static_cast<std::size_t>(gradient)])];
  REQUIRE(sum.is("add"));
  REQUIRE(sum.operands.size() == 2);
  std::multiset<std::string> made;
  for (ValueId part : sum.operands)
    made.insert(
        graph.ops[static_cast<std::size_t>(definitions(graph)[static_cast<std::size_t>(part)])].definition->name);
  CHECK(made == std::multiset<std::string>{"einsum", "embedding_gradient"});
  CHECK(graph[gradient].primal == graph.input("embedding.tokens"));
}

TEST_CASE("every program takes and gives what it says") {
  const TransformerSpec spec = test::llama_like();
  const CompileRequest request = test::request(spec, test::mesh(1, 1), 0);
  const std::set<std::string> data{"tokens", "labels", "index", "key_start", "position"};
  std::set<std::string> gradients, accumulators, model, state, moments;
  for (const auto& parameter : parameters(spec)) {
    model.insert(parameter.name);
    gradients.insert("gradient." + parameter.name);
    accumulators.insert("accumulator." + parameter.name);
    moments.insert({"first_moment." + parameter.name, "second_moment." + parameter.name});
  }
  const auto join = [](std::initializer_list<std::set<std::string>> sets) {
    std::set<std::string> all;
    for (const auto& set : sets) all.insert(set.begin(), set.end());
    return all;
  };
  const auto check = [&](ProgramKind kind, const std::set<std::string>& in, const std::set<std::string>& out) {
    INFO(name_of(kind));
    const Graph graph = specification(request, kind);
    CHECK(names(graph.inputs) == in);
    CHECK(names(graph.outputs) == out);
    CHECK(graph.inputs.size() == in.size());
    CHECK(graph.outputs.size() == out.size());
  };
  const auto forward = join({data, model, {"inverse_count"}});
  check(ProgramKind::evaluate, join({data, model}), {"loss_sum", "valid_tokens"});
  check(ProgramKind::count, data, {"valid_tokens"});
  check(ProgramKind::accumulate_only, forward, join({gradients, {"loss"}}));
  check(ProgramKind::accumulate_first, forward, join({accumulators, {"loss"}}));
  check(ProgramKind::accumulate_middle, join({forward, accumulators}), join({accumulators, {"loss"}}));
  check(ProgramKind::accumulate_last, join({forward, accumulators}), join({gradients, {"loss"}}));
  check(ProgramKind::update, join({model, gradients, moments, {"step", "learning_rate"}}),
        join({model, moments, {"grad_norm"}}));
}

TEST_CASE("count keeps only data, whatever graph it starts from") {
  const CompileRequest request = test::request(test::llama_like(), test::mesh(1, 1), 0);
  Graph graph = initial_graph(request, ProgramKind::evaluate);
  passes::loss(graph, {request.options, ProgramKind::count});
  CHECK(graph.ops.size() == 1);
  for (const auto& input : graph.inputs) CHECK(graph[input.value].role == Role::data);
}

TEST_CASE("weight decay only where it applies; the optimizer's numbers arrive") {
  CompileRequest request = test::request(test::llama_like(), test::mesh(1, 1), 0);
  request.options.meaning.optimizer.weight_decay = 0.25;
  request.options.meaning.optimizer.beta1 = 0.7;
  request.options.meaning.optimizer.beta2 = 0.8;
  request.options.meaning.optimizer.epsilon = 1e-5;
  request.options.meaning.optimizer.max_norm = 3;
  const Graph graph = specification(request, ProgramKind::update);
  int norms = 0;
  for (const Op& op : graph.ops) {
    if (op.is("clip_coefficient")) CHECK(op.attributes.number("max_norm") == 3);
    if (!op.is("adamw")) continue;
    const bool norm = graph[op.operands[2]].name.find("norm") != std::string::npos;
    norms += norm;
    CHECK(op.attributes.number("weight_decay") == (norm ? 0 : 0.25));
    CHECK(op.attributes.number("beta1") == 0.7);
    CHECK(op.attributes.number("beta2") == 0.8);
    CHECK(op.attributes.number("epsilon") == 1e-5);
  }
  CHECK(norms == 5);
}

TEST_CASE("an accumulator's sum stands right after its gradient") {
  const CompileRequest request = test::request(test::llama_like(), test::mesh(1, 1), 0);
  const Graph graph = specification(request, ProgramKind::accumulate_middle);
  int sums = 0;
  for (std::size_t i = 0; i < graph.ops.size(); ++i) {
    if (graph.ops[i].made_by != "optimizer") continue;
    ++sums;
    const ValueId gradient = graph.ops[i].operands[1];
    const auto made = definitions(graph)[static_cast<std::size_t>(gradient)];
    for (std::size_t k = static_cast<std::size_t>(made) + 1; k < i; ++k) CHECK(graph.ops[k].made_by == "optimizer");
  }
  CHECK(sums == static_cast<int>(request.options.meaning.parameters.size()));
}
