// Passes choose layouts and schedules and never change what a graph means: after every pass the graph, run on one
// device in float64 with reshards as identity, gives what the specification gives.
#include <catch2/catch.hpp>

#include "tests/passes/small_models.h"

using namespace longhaul;
using test::difference;

namespace {

struct Named {
  const char* name;
  TransformerSpec spec;
};

void check_meaning(const Named& model, const Mesh& mesh, int zero_stage) {
  const CompileRequest request = test::request(model.spec, mesh, zero_stage);
  Interpreter interpreter({});
  for (ProgramKind kind : request.kinds) {
    const Graph specified = specification(request, kind);
    const auto inputs = test::random_inputs(specified);
    const auto expected = interpreter.run(specified, inputs);
    REQUIRE_FALSE(expected.empty());
    Graph graph = specified;
    const PassContext context{request.options, kind};
    run_passes(graph, context, specification_passes(), static_cast<int>(pipeline().size()),
               [&](const Pass* pass, const Graph& one) {
                 const auto given = interpreter.run(one, inputs);
                 INFO(model.name << ", ZeRO " << zero_stage << ", mesh " << mesh.text() << ", program " << name_of(kind)
                                 << " after " << pass->name);
                 REQUIRE(given.size() == expected.size());
                 for (const auto& [name, value] : expected) {
                   INFO("output " << name);
                   REQUIRE(given.count(name) == 1);
                   REQUIRE(given.at(name).type.shape == value.type.shape);
                   REQUIRE(difference(given.at(name), value) <= 1e-12);
                 }
               });
  }
}

}  // namespace

TEST_CASE("no pass changes what a program means") {
  for (const Named& model : {Named{"llama", test::llama_like()}, Named{"gpt2", test::gpt2_like()},
                             Named{"qwen3", test::qwen3_like()}, Named{"three KV heads", [] {
                                                                         TransformerSpec spec = test::llama_like(3);
                                                                         spec.layers[0].layer.attention.heads = 12;
                                                                         return spec;
                                                                       }()}})
    for (const Mesh& mesh : {test::mesh(1, 1), test::mesh(2, 2), test::mesh(1, 4)})
      for (int zero_stage : {0, 1, 2, 3}) check_meaning(model, mesh, zero_stage);
}

TEST_CASE("the specification adds up: accumulation over micro-batches, and evaluate") {
  const CompileRequest request = test::request(test::qwen3_like(), test::mesh(1, 1), 0);
  Interpreter interpreter({});
  const auto run = [&](ProgramKind kind, const std::map<std::string, HostTensor>& inputs) {
    return interpreter.run(specification(request, kind), inputs);
  };
  const Graph last = specification(request, ProgramKind::accumulate_last);
  auto inputs = test::random_inputs(last);
  const auto only = run(ProgramKind::accumulate_only, inputs);
  const auto sum = run(ProgramKind::accumulate_last, inputs);
  const auto middle = run(ProgramKind::accumulate_middle, inputs);
  const auto first = run(ProgramKind::accumulate_first, inputs);
  for (const auto& parameter : request.options.meaning.parameters) {
    const HostTensor& gradient = only.at("gradient." + parameter.name);
    HostTensor expected = gradient;
    for (std::int64_t i = 0; i < gradient.type.count(); ++i)
      expected.set(i, gradient.at(i) + inputs.at("accumulator." + parameter.name).at(i));
    INFO(parameter.name);
    CHECK(difference(sum.at("gradient." + parameter.name), expected) < 1e-14);
    CHECK(difference(middle.at("accumulator." + parameter.name), expected) < 1e-14);
    CHECK(difference(first.at("accumulator." + parameter.name), gradient) == 0);
  }
  const auto evaluated = run(ProgramKind::evaluate, inputs);
  const double valid = evaluated.at("valid_tokens").at(0);
  CHECK(valid == run(ProgramKind::count, inputs).at("valid_tokens").at(0));
  CHECK(valid > 0);
  CHECK(valid < 12);
  CHECK(only.at("loss").at(0) == Approx(evaluated.at("loss_sum").at(0) / 9).epsilon(1e-14));

  // Each token's own loss changes nothing, and they sum up to the whole.
  CompileRequest with_tokens = request;
  with_tokens.options.meaning.evaluated_token_losses = with_tokens.options.meaning.trained_token_losses = true;
  for (const ProgramKind kind : {ProgramKind::evaluate, ProgramKind::accumulate_only}) {
    const auto tokens = interpreter.run(specification(with_tokens, kind), inputs);
    for (const auto& [name, value] : run(kind, inputs)) CHECK(difference(tokens.at(name), value) == 0);
    const HostTensor& losses = tokens.at("token_losses");
    double total = 0;
    for (std::int64_t i = 0; i < losses.type.count(); ++i) {
      CHECK((losses.at(i) == 0) == (inputs.at("labels").at(i) < 0));
      total += losses.at(i);
    }
    CHECK(total == Approx(evaluated.at("loss_sum").at(0)).epsilon(1e-14));
  }
}
