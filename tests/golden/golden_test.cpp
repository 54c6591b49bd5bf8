// Our loss, logits, gradients and optimizer against what Hugging Face transformers computed: the specification, and the
// compiled programs on one rank and on two.
#include <catch2/catch.hpp>
#include <cmath>

#include "golden_model.h"
#include "model/graph.h"
#include "model/rope.h"
#include "tests/train/small_models.h"

namespace longhaul {
namespace {

using namespace testing;

struct Outcome {
  StepResult first;
  Tensors gradients;                  // by their names, in their shapes
  std::vector<double> losses, norms;  // of the optimizer's steps
};

CompileRequest request_for(const Golden& golden, DType dtype, int sequence_ranks, int zero_stage) {
  const auto& optimizer = golden.manifest["optimizer"];
  CompileRequest request;
  request.scratch = cpu_scratch_bytes();
  request.spec = at_length(golden.model.spec, golden.sequence);
  request.options = options_for(golden.model.spec, dtype, zero_stage);
  request.options.meaning.optimizer.max_norm = optimizer["max_norm"];
  request.options.meaning.optimizer.beta1 = optimizer["betas"][0];
  request.options.meaning.optimizer.beta2 = optimizer["betas"][1];
  request.options.meaning.optimizer.epsilon = optimizer["eps"];
  request.options.meaning.optimizer.weight_decay = optimizer["weight_decay"];
  const std::set<std::string> undecayed = optimizer["no_weight_decay_on"];
  for (std::size_t i = 0; i < golden.mappings.size(); ++i)
    request.options.meaning.parameters[i].decays = !undecayed.contains(golden.mappings[i].tensor);
  request.mesh = Mesh({{"dp", 1}, {"ring", 1}, {"ulysses", sequence_ranks}});
  request.batch = golden.rows;
  request.sequence = (golden.sequence + sequence_ranks - 1) / sequence_ranks * sequence_ranks;
  request.kinds = step_kinds(1, false);
  return request;
}

Outcome run_specification(const Golden& golden) {
  const double rate = golden.manifest["optimizer"]["lr"];
  const CompileRequest request = request_for(golden, DType::float64, 1, 0);
  ReferenceRun run(request.spec, request.options.meaning, request.batch, golden.sequence);
  run.set_parameters(golden.source(), DType::float64);
  Outcome outcome;
  outcome.first = run.accumulate({golden.batch});
  Tensors gradients;
  for (const auto& parameter : parameters(golden.model.spec))
    gradients[parameter.name] = run.values("gradient." + parameter.name);
  outcome.gradients = golden.in_their_shape(gradients);
  outcome.losses = {outcome.first.loss};
  outcome.norms = {run.update(1, rate)};
  for (std::size_t step = 2; step <= golden.losses.size(); ++step) {
    const StepResult result = run.step(static_cast<std::int64_t>(step), rate, {golden.batch});
    outcome.losses.push_back(result.loss);
    outcome.norms.push_back(result.grad_norm);
  }
  return outcome;
}

Outcome run_programs(const Golden& golden, DType dtype, int ranks, int zero_stage) {
  const double rate = golden.manifest["optimizer"]["lr"];
  const CompileRequest request = request_for(golden, dtype, ranks, zero_stage);
  const CompiledModel model = compile_model(request);
  const ParameterSource source = golden.source();
  Outcome outcome;
  run_threads(ranks, [&](Communicator& world) {
    CpuTarget cpu;
    Session session(world, cpu, request, model);
    session.set_parameters(source);
    const auto fill = [&](std::int64_t) { fill_slice(session, golden.batch, golden.sequence); };
    Outcome mine;
    mine.first = session.accumulate(1, fill);
    Tensors gradients;
    for (const auto& parameter : parameters(golden.model.spec))
      gradients[parameter.name] = session.gather(session.state("gradient." + parameter.name));
    mine.losses = {mine.first.loss};
    mine.norms = {session.update(1, rate)};
    for (std::size_t step = 2; step <= golden.losses.size(); ++step) {
      const StepResult result = session.step(static_cast<std::int64_t>(step), rate, 1, fill);
      mine.losses.push_back(result.loss);
      mine.norms.push_back(result.grad_norm);
    }
    mine.gradients = golden.in_their_shape(gradients);
    if (world.rank() == 0) outcome = std::move(mine);
    return 0;
  });
  return outcome;
}

void check_close(double value, double expected, double limit) {
  INFO("value " << value << ", expected " << expected << ", relative error " << std::abs(value / expected - 1));
  CHECK(std::abs(value - expected) <= limit * std::abs(expected));
}

void check_float64(const Outcome& outcome, const Golden& golden) {
  CHECK(outcome.first.valid_tokens == golden.manifest["counts"]["valid_labels"].get<double>());
  check_close(outcome.first.loss, golden.loss, tolerance::float64);
  CHECK(outcome.gradients.size() == golden.gradients.size());
  for (const auto& [name, error] : tensor_errors(outcome.gradients, golden.gradients)) {
    INFO("gradient of " << name << ", error " << error);
    CHECK(error <= tolerance::float64);
  }
  REQUIRE(outcome.losses.size() == golden.losses.size());
  for (std::size_t i = 0; i < golden.losses.size(); ++i) {
    INFO("AdamW step " << i + 1);
    check_close(outcome.losses[i], golden.losses[i], tolerance::float64);
    check_close(outcome.norms[i], golden.norms[i], tolerance::float64);
  }
}

// The norm of each row of a matrix, or the size of each element of a vector.
std::vector<double> row_norms(const std::vector<double>& tensor, std::int64_t rows) {
  std::vector<double> norms;
  const auto width = static_cast<std::ptrdiff_t>(tensor.size()) / rows;
  for (std::ptrdiff_t row = 0; row < rows; ++row)
    norms.push_back(norm({tensor.begin() + row * width, tensor.begin() + (row + 1) * width}));
  return norms;
}

// Gradients are zero exactly where the manifest says so.
void check_zeros(const Outcome& outcome, const Golden& golden) {
  double squares = 0, elements = 0;
  for (const auto& [name, gradient] : golden.gradients) {
    squares += norm(gradient) * norm(gradient);
    elements += static_cast<double>(gradient.size());
  }
  std::map<std::string, std::set<std::int64_t>> zeros, exact;
  for (const auto& entry : golden.manifest["zero_gradients"])
    for (const std::int64_t row : entry["rows"]) {
      zeros[entry["tensor"]].insert(row);
      if (entry["kind"] == "unused") exact[entry["tensor"]].insert(row);
    }
  for (const auto& [name, gradient] : outcome.gradients) {
    const std::int64_t rows = golden.shapes.at(name)[0];
    const double typical =
        std::sqrt(squares * static_cast<double>(gradient.size()) / static_cast<double>(rows) / elements);
    const std::vector<double> norms = row_norms(gradient, rows);
    for (std::int64_t row = 0; row < rows; ++row) {
      const double value = norms[static_cast<std::size_t>(row)];
      INFO(name << " row " << row << " has norm " << value << ", a typical one " << typical);
      if (exact[name].contains(row))
        CHECK(value == 0);
      else if (zeros[name].contains(row))
        CHECK(value <= tolerance::float64 * typical);
      else
        CHECK(value > tolerance::float64 * typical);
    }
  }
}

std::vector<double> logits_of(const Golden& golden) {
  const TransformerSpec spec = at_length(golden.model.spec, golden.sequence);
  const Graph graph = forward_graph(spec, golden.rows, golden.sequence, Mesh());
  const ParameterSource source = golden.source();
  std::map<std::string, HostTensor> inputs;
  for (const auto& [name, values] : {std::pair{"tokens", &golden.batch.tokens},
                                     {"labels", &golden.batch.labels},
                                     {"index", &golden.batch.index},
                                     {"key_start", &golden.batch.key_start},
                                     {"position", &golden.batch.position}}) {
    HostTensor tensor(TensorType{{golden.rows, golden.sequence}, DType::int32});
    std::memcpy(tensor.data(), values->data(), tensor.bytes.size());
    inputs[name] = std::move(tensor);
  }
  for (const auto& parameter : parameters(spec)) {
    HostTensor tensor(TensorType{parameter.shape, DType::float64});
    source(parameter.name, 0, parameter.elements(), DType::float64, tensor.data());
    inputs[parameter.name] = std::move(tensor);
  }
  const HostTensor logits = Interpreter({}).run(graph, inputs).at("logits");
  std::vector<double> values;
  for (std::int64_t i = 0; i < logits.type.count(); ++i) {
    const double scaled = logits.at(i) * spec.logits_scale, cap = spec.logits_soft_cap;
    values.push_back(cap != 0 ? cap * std::tanh(scaled / cap) : scaled);
  }
  return values;
}

}  // namespace

TEST_CASE("the specification computes what transformers computes, in float64", "[golden]") {
  for (const auto& name : golden_names()) {
    INFO(name);
    const Golden golden(name);
    const Outcome outcome = run_specification(golden);
    check_float64(outcome, golden);
    check_zeros(outcome, golden);
    const double error = tensor_errors({{"logits", logits_of(golden)}}, {{"logits", golden.logits}})["logits"];
    INFO("logits, error " << error);
    CHECK(error <= tolerance::float64);
  }
}

TEST_CASE("the compiled programs compute what transformers computes, in float64", "[golden]") {
  for (const auto& name : golden_names())
    for (const auto& [ranks, zero_stage] : {std::pair{1, 0}, {2, 3}}) {
      const Golden golden(name);
      const auto divides = [count = ranks](const LayerSpec* layer) { return layer->attention.heads % count == 0; };
      if (!std::ranges::all_of(golden.model.spec.each_layer(), divides)) continue;
      INFO(name << " on " << ranks << " ranks, ZeRO " << zero_stage);
      const Outcome outcome = run_programs(golden, DType::float64, ranks, zero_stage);
      check_float64(outcome, golden);
      check_zeros(outcome, golden);
    }
}

TEST_CASE("the compiled programs in float32 agree with transformers in float32", "[golden]") {
  for (const auto& name : golden_names()) {
    INFO(name);
    const Golden golden(name);
    const auto& theirs = golden.manifest["unpatched_float32"];
    const Outcome outcome = run_programs(golden, DType::float32, 1, 0);
    check_close(outcome.first.loss, theirs["loss"], tolerance::transformers_float32);
    check_close(outcome.norms[0], theirs["gradient_norm"], tolerance::transformers_float32);
    for (const auto& [tensor, gradient] : outcome.gradients) {
      INFO("gradient of " << tensor);
      check_close(norm(gradient), theirs["gradient_norms"][tensor], tolerance::transformers_float32);
    }
  }
}

}  // namespace longhaul
