// Generation with a cache: against what transformers generates with the golden models, and against the whole prefix
// computed anew.
#include <catch2/catch.hpp>
#include <numeric>

#include "golden_model.h"
#include "model/graph.h"
#include "model/initialise.h"
#include "model/rope.h"
#include "run/generator.h"
#include "runtime/cpu/interpreter.h"

namespace longhaul {
namespace {

using namespace testing;

// Logits of every token of one sequence, [tokens, vocabulary], by the specification: nothing is kept from one token to
// the next, and reference kernels compute in float64.
std::vector<std::vector<double>> by_the_specification(const Golden& golden, const std::vector<std::int32_t>& tokens,
                                                      std::int64_t capacity) {
  const TransformerSpec spec = at_length(golden.model.spec, capacity);
  const auto length = static_cast<std::int64_t>(tokens.size());
  Graph graph = forward_graph(spec, 1, length, Mesh());
  std::map<std::string, HostTensor> inputs;
  for (const auto& input : graph.inputs) {
    HostTensor tensor(TensorType{graph[input.value].shape, graph[input.value].dtype});
    if (graph[input.value].role == Role::parameter)
      golden.source()(input.name, 0, tensor.type.count(), DType::float64, tensor.data());
    else
      for (std::int64_t i = 0; i < length; ++i)
        reinterpret_cast<std::int32_t*>(tensor.data())[i] =
            input.name == "tokens" ? tokens[static_cast<std::size_t>(i)]
                                   : (input.name == "index" || input.name == "position") * static_cast<std::int32_t>(i);
    inputs[input.name] = std::move(tensor);
  }
  const HostTensor logits = Interpreter({}).run(graph, inputs).at("logits");
  std::vector<std::vector<double>> rows(tokens.size());
  for (std::size_t i = 0; i < rows.size(); ++i)
    for (std::int64_t v = 0; v < spec.vocabulary; ++v) {
      double value = logits.at(static_cast<std::int64_t>(i) * spec.vocabulary + v) * spec.logits_scale;
      if (spec.logits_soft_cap != 0) value = spec.logits_soft_cap * std::tanh(value / spec.logits_soft_cap);
      rows[i].push_back(value);
    }
  return rows;
}

double difference(const std::vector<double>& ours, const std::vector<double>& expected) {
  REQUIRE(ours.size() == expected.size());
  double most = 0, size = 0;
  for (std::size_t i = 0; i < ours.size(); ++i) {
    most = std::max(most, std::abs(ours[i] - expected[i]));
    size = std::max(size, std::abs(expected[i]));
  }
  return most / size;
}

}  // namespace

TEST_CASE("greedy tokens are those of transformers", "[golden]") {
  int cases = 0;
  for (const auto& name : golden_names()) {
    const auto file = golden_root() / name / "generated.json";
    if (!std::filesystem::exists(file)) continue;
    const Golden golden(name);
    const nlohmann::json generated = read_json(file);
    for (const auto& one : generated["cases"]) {
      const auto prompt = one["prompt"].get<std::vector<std::int32_t>>(),
                 expected = one["tokens"].get<std::vector<std::int32_t>>();
      INFO(name << " after " << prompt.size() << " tokens");
      Generator generator(golden.model.spec, static_cast<std::int64_t>(prompt.size() + expected.size()), DType::float64,
                          2);
      generator.set_parameters(golden.source());
      CHECK(generate(generator, prompt, static_cast<std::int64_t>(expected.size()), {}, {}) == expected);
      // Where it ends, and that the token is not part of what was made.
      const std::int32_t end = expected[5];
      const auto first = static_cast<std::size_t>(std::find(expected.begin(), expected.end(), end) - expected.begin());
      CHECK(generate(generator, prompt, 16, {}, {end}) ==
            std::vector<std::int32_t>(expected.begin(), expected.begin() + static_cast<std::ptrdiff_t>(first)));
      ++cases;
    }
  }
  CHECK(cases >= 50);
}

TEST_CASE("generation with a cache is the whole prefix computed anew", "[golden]") {
  for (const auto& name : golden_names()) {
    const Golden golden(name);
    const std::vector<std::int32_t> tokens(golden.batch.tokens.begin(), golden.batch.tokens.begin() + golden.sequence);
    // Room for one token that never comes: its row must stay unseen.
    const std::int64_t capacity = golden.sequence + (golden.model.spec.learned_positions ? 0 : 1);
    const auto expected = by_the_specification(golden, tokens, capacity);
    for (const DType dtype : {DType::float64, DType::float32, DType::bfloat16}) {
      INFO(name << " in " << name_of(dtype));
      Generator generator(golden.model.spec, capacity, dtype, 2);
      generator.set_parameters(golden.source());
      const double allowed = dtype == DType::float64 ? 1e-10 : dtype == DType::float32 ? 1e-4 : 0.2;
      for (const std::size_t prompt : {std::size_t{1}, std::size_t{12}}) {
        generator.restart();
        std::vector<double> logits = generator.append(std::span(tokens).first(prompt));
        double worst = difference(logits, expected[prompt - 1]);
        for (std::size_t i = prompt; i < tokens.size(); ++i)
          worst = std::max(worst, difference(generator.append(std::span(&tokens[i], 1)), expected[i]));
        CHECK(worst < allowed);
      }
    }
  }
}

TEST_CASE("long prompts are taken in by pieces", "[golden]") {
  for (const char* name : {"llama", "mistral", "gemma2", "phi3"}) {
    INFO(name);
    const Golden golden(name);
    std::vector<std::int32_t> tokens(300);
    for (std::size_t i = 0; i < tokens.size(); ++i)
      tokens[i] = static_cast<std::int32_t>(philox({static_cast<std::uint32_t>(i), 0, 0, 0}, {7, 0})[0] %
                                            static_cast<std::uint32_t>(golden.model.spec.vocabulary));
    const auto expected = by_the_specification(golden, tokens, 300);
    Generator generator(golden.model.spec, 300, DType::float64, 2);
    generator.set_parameters(golden.source());
    for (const std::size_t prompt : {std::size_t{128}, std::size_t{129}, std::size_t{257}, std::size_t{300}}) {
      generator.restart();
      CHECK(difference(generator.append(std::span(tokens).first(prompt)), expected[prompt - 1]) < 1e-10);
    }
    CHECK_THROWS_WITH(generator.append(std::span(tokens).first(1)), Catch::Contains("room"));
    generator.restart();
    const std::int32_t wrong = static_cast<std::int32_t>(generator.vocabulary());
    CHECK_THROWS_WITH(generator.append(std::span(&wrong, 1)), Catch::Contains("vocabulary"));
  }
}

TEST_CASE("draws follow the probabilities, within top_p, and the seed", "[golden]") {
  const std::vector<double> logits = {0, std::log(2.0), std::log(5.0), std::log(2.0)};  // of 10: 1, 2, 5, 2
  CHECK(choose_token(logits, {}, 0, 0) == 2);
  const auto counts = [&](const Sampling& sampling) {
    std::vector<double> found(logits.size(), 0);
    for (std::int64_t place = 0; place < 20000; ++place)
      found[static_cast<std::size_t>(choose_token(logits, sampling, 3, place))] += 1.0 / 20000;
    return found;
  };
  const auto near = [](const std::vector<double>& found, const std::vector<double>& expected) {
    for (std::size_t i = 0; i < found.size(); ++i) {
      INFO(i << ": " << found[i]);
      CHECK(std::abs(found[i] - expected[i]) < 0.015);
    }
  };
  near(counts({.temperature = 1}), {0.1, 0.2, 0.5, 0.2});
  near(counts({.temperature = 0.5}), {1.0 / 34, 4.0 / 34, 25.0 / 34, 4.0 / 34});
  // As few as have 0.6 together: 5 and one 2, the lower token of the two.
  near(counts({.temperature = 1, .top_p = 0.6}), {0, 2.0 / 7, 5.0 / 7, 0});
  near(counts({.temperature = 1, .top_p = 0}), {0, 0, 1, 0});
  const auto drawn = [&](std::uint64_t seed, std::uint64_t sequence) {
    std::vector<std::int32_t> tokens;
    for (std::int64_t place = 0; place < 64; ++place)
      tokens.push_back(choose_token(logits, {.temperature = 1, .seed = seed}, sequence, place));
    return tokens;
  };
  CHECK(drawn(1, 0) == drawn(1, 0));
  CHECK(drawn(1, 0) != drawn(2, 0));
  CHECK(drawn(1, 0) != drawn(1, 1));
  const std::vector<double> broken = {0, std::nan("")};
  CHECK_THROWS_WITH(choose_token(broken, {}, 0, 4), Catch::Contains("token 4 are not finite"));
}

}  // namespace longhaul
