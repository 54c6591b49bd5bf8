// Finite differences of every op that has a gradient, in float64, through the reference kernels. An op without a row in
// the table fails the test.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <catch2/catch.hpp>
#include <functional>
#include <random>
#include <set>

#include "ir/builder.h"
#include "ir/op_definition.h"
#include "ir/verifier.h"
#include "runtime/cpu/interpreter.h"

using namespace longhaul;

namespace {

using Inputs = std::map<std::string, HostTensor>;

struct Operand {
  Shape shape;
  std::vector<int> integers = {};  // int32 when given; otherwise random reals
  bool constant = false;           // a real operand that gets no gradient
};

struct Case {
  std::string op;
  std::vector<Operand> operands;
  std::string signature = "";
  Attributes attributes = {};
  std::vector<DType> result_types = {};
  double scale = 1;  // of the random operands
};

std::vector<Case> table() {
  const std::vector<int> index{0, 1, 2, 3, 4, 4, 2, 0, 1, 3};  // two sequences of 5, the second in another order
  const std::vector<int> start{0, 0, 0, 3, 3, 0, 0, 0, 0, 0};  // the first is packed
  const auto attention = [&](std::int64_t heads, std::int64_t kv_heads, std::int64_t window, double soft_cap = 0) {
    Attributes attributes{{"scale", 0.6}};
    if (soft_cap != 0) attributes.set("soft_cap", soft_cap);
    if (window) attributes.set("window", window);
    return Case{.op = "attention",
                .operands = {{{2, 5, heads, 3}},
                             {{2, 5, kv_heads, 3}},
                             {{2, 5, kv_heads, 3}},
                             {{2, 5}, index},
                             {{2, 5}, index},
                             {{2, 5}, start}},
                .attributes = attributes};
  };
  std::vector<Case> cases{
      {.op = "add", .operands = {{{3, 4}}, {{3, 4}}}},
      {.op = "add", .operands = {{{3}}, {{3}}, {{3}}}},
      {.op = "scale", .operands = {{{3, 4}}}, .attributes = {{"factor", -1.7}}},
      {.op = "multiply", .operands = {{{}}, {.shape = {}, .constant = true}}},
      {.op = "cast", .operands = {{{3, 4}}}, .result_types = {DType::float64}},
      {.op = "add_bias", .operands = {{{2, 3, 4}}, {{4}}}, .signature = "bsf,f->bsf"},
      {.op = "add_bias", .operands = {{{2, 3, 2, 4}}, {{2, 4}}}, .signature = "bshd,hd->bshd"},
      {.op = "center", .operands = {{{2, 3, 5}}}},
      {.op = "rms_norm", .operands = {{{2, 3, 4}}, {{4}}}, .attributes = {{"epsilon", 1e-5}, {"weight_offset", 1.0}}},
      {.op = "rms_norm_heads", .operands = {{{2, 3, 2, 4}}, {{2, 4}}}, .attributes = {{"epsilon", 1e-5}}},
      {.op = "einsum", .operands = {{{2, 3, 4}}, {{5, 4}}}, .signature = "bse,fe->bsf"},
      {.op = "einsum", .operands = {{{2, 3, 4}}, {{2, 3, 4}}}, .signature = "bse,hde->bshd"},
      {.op = "einsum", .operands = {{{2, 3, 2, 3}}, {{4, 2, 3}}}, .signature = "bshd,ehd->bse"},
      {.op = "einsum", .operands = {{{2, 3, 4}}, {{2, 3, 5}}}, .signature = "bse,bsf->ef"},
      {.op = "embedding", .operands = {{{2, 3}, {4, 0, 4, 1, 1, 4}}, {{5, 3}}}},
      {.op = "rms_norm", .operands = {{{2, 3, 4}}, {{4}}}, .attributes = {{"epsilon", 0.01}}},
      {.op = "rms_norm", .operands = {{{2, 3, 2, 4}}, {{4}}}, .attributes = {{"epsilon", 0.01}}},
      {.op = "layer_norm", .operands = {{{2, 3, 4}}, {{4}}, {{4}}}, .attributes = {{"epsilon", 0.01}}},
      {.op = "rope", .operands = {{{2, 3, 2, 6}}, {.shape = {2, 3, 4}, .constant = true}}},
      {.op = "rope",
       .operands = {{{2, 3, 2, 6}}, {.shape = {2, 3, 6}, .constant = true}},
       .attributes = {{"inverse", std::int64_t{1}}}},
      {.op = "cross_entropy", .operands = {{{2, 3, 5}}, {{2, 3}, {0, 4, -100, 2, -1, 2}}}},
      {.op = "cross_entropy",
       .operands = {{{2, 3, 5}}, {{2, 3}, {0, 4, -100, 2, -1, 2}}},
       .attributes = {{"logits_scale", 0.7}, {"soft_cap", 2.0}},
       .scale = 3},
      {.op = "cross_entropy_tokens", .operands = {{{2, 3, 5}}, {{2, 3}, {0, 4, -100, 2, -1, 2}}}},
      attention(2, 2, 0),
      attention(4, 2, 0),
      attention(4, 1, 2),
      attention(4, 2, 3, 0.8),
      attention(3, 3, 1),
  };
  for (const std::string kind : {"silu", "gelu", "gelu_tanh", "relu"}) {
    cases.push_back({.op = "activation", .operands = {{{3, 4}}}, .attributes = {{"kind", kind}}, .scale = 2});
    cases.push_back(
        {.op = "gated_activation", .operands = {{{3, 4}}, {{3, 4}}}, .attributes = {{"kind", kind}}, .scale = 2});
  }
  return cases;
}

double dot(const HostTensor& a, const HostTensor& b) {
  double sum = 0;
  for (std::int64_t i = 0; i < a.type.count(); ++i) sum += a.at(i) * b.at(i);
  return sum;
}

HostTensor random_tensor(const Shape& shape, double scale, std::mt19937& random) {
  std::normal_distribution<double> normal(0, scale);
  HostTensor tensor({shape, DType::float64});
  for (std::int64_t i = 0; i < tensor.type.count(); ++i) tensor.set(i, normal(random));
  return tensor;
}

void check(const Case& one) {
  std::string title = one.op + " " + one.signature;
  for (const auto& operand : one.operands) title += " [" + fmt::format("{}", fmt::join(operand.shape, ",")) + "]";
  for (const auto& [name, value] : one.attributes.all()) title += " " + name;
  INFO(title);
  std::mt19937 random(7);
  Graph graph;
  graph.name = one.op;
  Inputs inputs;
  std::vector<ValueId> operands;
  for (std::size_t i = 0; i < one.operands.size(); ++i) {
    const Operand& operand = one.operands[i];
    const std::string name = "x" + std::to_string(i);
    const bool real = operand.integers.empty();
    operands.push_back(graph.add_input(name, operand.shape, real ? DType::float64 : DType::int32, Role::data));
    inputs[name] = random_tensor(operand.shape, one.scale, random);
    if (real) continue;
    inputs[name] = HostTensor({operand.shape, DType::int32});
    for (std::size_t k = 0; k < operand.integers.size(); ++k)
      inputs[name].set(static_cast<std::int64_t>(k), operand.integers[k]);
  }
  Builder builder(graph, "test");
  const auto results =
      builder.emit(one.op, operands, one.attributes, {.signature = one.signature, .result_types = one.result_types});
  graph.outputs = {{"y", results[0]}};
  const Graph forward = graph;  // the loss is y · dy; only the first result has a gradient
  const ValueId dy = graph.add_input("dy", graph[results[0]].shape, DType::float64, Role::data);
  inputs["dy"] = random_tensor(graph[dy].shape, 1, random);
  std::vector<ValueId> result_gradients(results.size(), no_value);
  result_gradients[0] = dy;
  const Op op = graph.ops.back();
  const auto gradients = op.definition->gradient(builder, op, result_gradients);
  REQUIRE(gradients.size() == operands.size());
  graph.outputs.clear();
  for (std::size_t i = 0; i < operands.size(); ++i) {
    INFO("operand " << i);
    // Exactly the real operands that are not declared constant have a gradient, of the operand's shape and type.
    REQUIRE((gradients[i] != no_value) == (one.operands[i].integers.empty() && !one.operands[i].constant));
    if (gradients[i] == no_value) continue;
    REQUIRE(graph[gradients[i]].shape == one.operands[i].shape);
    REQUIRE(graph[gradients[i]].dtype == DType::float64);
    graph.outputs.push_back({"d" + std::to_string(i), gradients[i]});
  }
  REQUIRE(verify(graph, Stage::one_device) == "");

  Interpreter interpreter({});
  const Inputs computed = interpreter.run(graph, inputs);
  double largest = 0;
  for (std::size_t i = 0; i < operands.size(); ++i) {
    if (gradients[i] == no_value) continue;
    HostTensor& x = inputs.at("x" + std::to_string(i));
    const HostTensor& gradient = computed.at("d" + std::to_string(i));
    for (std::int64_t k = 0; k < x.type.count(); ++k) {
      INFO("operand " << i << ", element " << k);
      const double value = x.at(k), h = 1e-5;
      const auto loss = [&](double moved) {
        x.set(k, moved);
        return dot(interpreter.run(forward, inputs).at("y"), inputs.at("dy"));
      };
      // Fourth order: the error is far below the tolerance.
      const double difference =
          (8 * (loss(value + h) - loss(value - h)) - (loss(value + 2 * h) - loss(value - 2 * h))) / (12 * h);
      x.set(k, value);
      CHECK(gradient.at(k) == Approx(difference).epsilon(1e-7).margin(1e-8));
      largest = std::max(largest, std::abs(difference));
    }
  }
  CHECK(largest > 1e-3);  // not all zeros
}

}  // namespace

TEST_CASE("gradients agree with finite differences") {
  for (const Case& one : table()) check(one);
}

TEST_CASE("every op with a gradient is in the table") {
  std::set<std::string> covered, expected;
  for (const Case& one : table()) covered.insert(one.op);
  for (const OpDefinition* definition : all_ops())
    if (definition->gradient) expected.insert(definition->name);
  CHECK(covered == expected);
}

TEST_CASE("repeating KV heads and summing them are transposes") {
  // expand_heads has no gradient of its own: choose_attention puts it and its transpose into the joint graph.
  std::mt19937 random(3);
  Graph graph;
  const ValueId x = graph.add_input("x", {2, 3, 2, 4}, DType::float64, Role::data);
  const ValueId y = graph.add_input("y", {2, 3, 6, 4}, DType::float64, Role::data);
  Builder builder(graph, "test");
  graph.outputs = {{"many", builder.one("expand_heads", {x}, {}, {.result_shapes = {{2, 3, 6, 4}}})},
                   {"few", builder.one("reduce_heads", {y}, {}, {.result_shapes = {{2, 3, 2, 4}}})}};
  const Inputs inputs{{"x", random_tensor({2, 3, 2, 4}, 1, random)}, {"y", random_tensor({2, 3, 6, 4}, 1, random)}};
  const Inputs outputs = Interpreter({}).run(graph, inputs);
  CHECK(dot(outputs.at("many"), inputs.at("y")) == Approx(dot(inputs.at("x"), outputs.at("few"))).epsilon(1e-13));
  for (std::int64_t h = 0; h < 6; ++h) CHECK(outputs.at("many").at(h * 4) == inputs.at("x").at(h / 3 * 4));
}

TEST_CASE("a product with an addend is the product and the sum") {
  std::mt19937 random(3);
  Graph graph;
  const ValueId x = graph.add_input("x", {2, 3, 4}, DType::float64, Role::data);
  const ValueId w = graph.add_input("w", {5, 4}, DType::float64, Role::data);
  const ValueId a = graph.add_input("a", {2, 3, 5}, DType::float64, Role::data);
  Builder builder(graph, "test");
  graph.outputs = {{"fused", builder.one("einsum_add", {x, w, a}, {}, {.signature = "bse,fe,bsf->bsf"})},
                   {"apart", builder.one("add", {a, builder.einsum("bse,fe->bsf", x, w)})}};
  const Inputs inputs{{"x", random_tensor({2, 3, 4}, 1, random)},
                      {"w", random_tensor({5, 4}, 1, random)},
                      {"a", random_tensor({2, 3, 5}, 1, random)}};
  const Inputs outputs = Interpreter({}).run(graph, inputs);
  for (std::int64_t i = 0; i < 30; ++i)
    CHECK(outputs.at("fused").at(i) == Approx(outputs.at("apart").at(i)).epsilon(1e-13));
}

TEST_CASE("gradients with an addend are the gradients and the sum") {
  std::mt19937 random(4);
  Graph graph;
  const ValueId dy = graph.add_input("dy", {2, 3, 4}, DType::float64, Role::data);
  const ValueId tokens = graph.add_input("tokens", {2, 3}, DType::int32, Role::data);
  const ValueId table = graph.add_input("table", {5, 4}, DType::float64, Role::data);
  Builder builder(graph, "test");
  graph.outputs.push_back({"table fused", builder.one("embedding_gradient_add", {tokens, dy, table})});
  graph.outputs.push_back({"table apart", builder.one("add", {table, builder.one("embedding_gradient", {tokens, dy}, {},
                                                                                 {.result_shapes = {{5, 4}}})})});
  Inputs inputs;
  for (const auto& [name, shape] : std::map<std::string, Shape>{{"dy", {2, 3, 4}}, {"table", {5, 4}}})
    inputs[name] = random_tensor(shape, 1, random);
  HostTensor& ids = inputs["tokens"] = HostTensor(TensorType{{2, 3}, DType::int32});
  for (const std::int64_t i : {0, 2, 5}) ids.set(i, 4);  // three of one token, and rows that do not occur
  const Inputs outputs = Interpreter({}).run(graph, inputs);
  int compared = 0;
  for (const auto& [name, value] : outputs) {
    if (!name.ends_with(" fused")) continue;
    const HostTensor& apart = outputs.at(name.substr(0, name.size() - 5) + "apart");
    for (std::int64_t i = 0; i < apart.type.count(); ++i, ++compared)
      CHECK(value.at(i) == Approx(apart.at(i)).epsilon(1e-13).margin(1e-14));
  }
  CHECK(compared == 20);
}
