// training.frozen: no gradient, no optimizer state and no messages for what is not trained, to the byte; the others
// learn exactly as they would.
#include <catch2/catch.hpp>
#include <filesystem>
#include <mutex>
#include <set>
#include <string>

#include "base/error.h"
#include "comm/launch.h"
#include "config/experiment.h"
#include "ir/op_definition.h"
#include "model/flops.h"
#include "ranks.h"
#include "run/setup.h"
#include "run/source.h"
#include "small_experiment.h"
#include "train/trainer.h"
#include "verify/verify.h"

namespace longhaul {
namespace {

using namespace testing;
using Catch::Contains;
namespace fs = std::filesystem;

bool frozen(const std::string& name) {
  return name.starts_with("embedding.") || name.ends_with("norm.weight") || name.starts_with("layers.0.");
}

CompileRequest frozen_request(const Cell& cell) {
  CompileRequest request = request_for(cell);
  std::erase_if(request.options.meaning.parameters, [](const ParameterInfo& one) { return frozen(one.name); });
  return request;
}

std::int64_t bytes_of(const CompiledModel& model, Role role) {
  std::int64_t bytes = 0;
  std::set<std::string> counted;
  for (const Program* program : model.all())
    for (const auto* bindings : {&program->graph.inputs, &program->graph.outputs})
      for (const auto& binding : *bindings)
        if (binding.state && binding.state->role == role && counted.insert(binding.name).second) {
          bytes += local_bytes(program->graph, binding.value);
        }
  return bytes;
}

std::int64_t sent(const CompiledModel& model, const std::string& collective) {
  std::int64_t bytes = 0;
  for (const ProgramKind kind : model.kinds)
    for (const auto& row : predicted_traffic("", model.program(kind), 0))
      if (row.collective == collective) bytes += row.bytes_sent;
  return bytes;
}

}  // namespace

TEST_CASE("frozen parameters have no gradients, no moments and no messages, to the byte") {
  const TransformerSpec spec = small_llama();
  for (const DType dtype : {DType::float32, DType::bfloat16})
    for (int stage = 0; stage <= 3; ++stage) {
      INFO(name_of(dtype) << ", stage " << stage);
      const Cell cell{.spec = spec, .data = 4, .zero_stage = stage, .rows = 4, .dtype = dtype};
      CompileRequest whole_request = request_for(cell), request = frozen_request(cell);
      whole_request.options.schedule.bucket_size = request.options.schedule.bucket_size = 0;
      const CompiledModel whole = compile_model(whole_request), model = compile_model(request);
      std::int64_t trained = 0, kept = 0, all_kept = 0, reduced = 0, gathered = 0;
      for (const Parameter& one : parameters(spec)) {
        const std::int64_t shard = (one.elements() + 3) / 4;
        all_kept += stage >= 1 ? shard : one.elements();
        if (frozen(one.name)) continue;
        trained += one.elements();
        kept += stage >= 1 ? shard : one.elements();
        reduced += 3 * shard;
        gathered += 3 * shard;
      }
      for (const Role role : {Role::first_moment, Role::second_moment}) CHECK(bytes_of(model, role) == kept * 4);
      for (const Program* program : model.all())
        for (const auto* bindings : {&program->graph.inputs, &program->graph.outputs})
          for (const auto& binding : *bindings)
            if (binding.state && !holds_parameter(binding.state->role)) CHECK_FALSE(frozen(binding.state->parameter));
      CHECK(bytes_of(model, Role::gradient) == (stage >= 1 ? kept : trained) * 4);
      CHECK(bytes_of(whole, Role::first_moment) == all_kept * 4);
      if (dtype == DType::bfloat16) CHECK(bytes_of(model, Role::parameter) == all_kept * 4);  // masters of all
      CHECK(model.named.bytes < whole.named.bytes);
      if (stage >= 1) {
        CHECK(sent(model, "reduce_scatter") == reduced * 4);
        if (stage < 3)
          CHECK(sent(model, "all_gather") == gathered * static_cast<std::int64_t>(size_of(dtype)));
        else
          CHECK(sent(model, "all_gather") < sent(whole, "all_gather"));
      }
    }
}

TEST_CASE("model FLOPs count what is computed when parameters are frozen, and a frozen head is tiled too") {
  TransformerSpec shared = small_llama(), parallel = small_llama(), post = small_qwen3();
  shared.layers[0].layer.branches = Branches::parallel_shared_norm;
  parallel.layers[0].layer.branches = Branches::parallel;
  for (auto& group : post.layers) group.layer.norm_placement = NormPlacement::both;
  const std::vector<std::vector<std::string>> sets = {{},
                                                      {"embedding.*"},
                                                      {"embedding.*", "layers.0.*"},
                                                      {"embedding.*", "layers.0.*", "*norm*", "layers.1.attention.*"},
                                                      {"embedding.*", "layers.0.*", "layers.1.mlp.*", "head.*"},
                                                      {"layers.*.weight"},
                                                      {"head.weight"},
                                                      {"embedding.*", "*norm.weight", "*.q.weight", "*.k.weight",
                                                       "*.v.weight", "*.o.weight", "*.q.bias", "*.k.bias", "*.v.bias"},
                                                      {"embedding.*", "layers.*", "head.*"}};
  for (const auto& spec : {small_llama(), small_gpt2(), shared, parallel, post})
    for (const auto& patterns : sets) {
      const auto trains = [&](const std::string& name) {
        return std::none_of(patterns.begin(), patterns.end(),
                            [&](const std::string& pattern) { return matches_pattern(pattern, name); });
      };
      const Cell cell{.spec = spec, .activations = ActivationMode::keep};
      CompileRequest request = request_for(cell);
      std::erase_if(request.options.meaning.parameters, [&](const ParameterInfo& one) { return !trains(one.name); });
      INFO(cell.text() << (patterns.empty() ? "" : " without " + patterns.back()) << " and " << patterns.size());
      const CompiledModel model = compile_model(request);
      const Graph& graph = model.program(ProgramKind::accumulate_only).graph;
      double products = 0;
      std::int64_t gradients = 0, heads = 0;
      for (const Op& op : graph.ops) {
        if (op.definition->arithmetic == Arithmetic::products) products += op.definition->flops(graph, op, graph.mesh);
        gradients += op.definition->arithmetic == Arithmetic::attention_gradient;
        heads += op.definition->name.starts_with("loss_head");
      }
      const FlopsPerToken flops = flops_per_token(spec, cell.sequence, trains);
      CHECK(products == flops.matmul * static_cast<double>(cell.rows * cell.sequence));
      std::int64_t with_backward = 0;
      const auto layers = spec.each_layer();
      for (std::size_t i = 0; i < layers.size(); ++i)
        with_backward += flops.layers[i].of_pair ==
                         12.0 * static_cast<double>(layers[i]->attention.heads * layers[i]->attention.head_dim);
      CHECK(gradients == with_backward);
      CHECK(heads == 1);
      if (patterns.empty()) CHECK(flops.matmul == flops_per_token(spec, cell.sequence).matmul);
      if (patterns == sets.back()) CHECK(flops.causal() < 0.75 * flops_per_token(spec, cell.sequence).causal());
    }
}

TEST_CASE("what is trained has the gradients that it has anyway, what is frozen stays", "[threads]") {
  for (const auto& spec : {small_llama(), small_gpt2()})
    for (const auto& [data, ulysses, ring, stage] :
         {std::tuple{1, 1, 1, 0}, {2, 1, 1, 2}, {1, 2, 1, 3}, {1, 1, 2, 1}, {2, 1, 2, 3}}) {
      Cell cell{.spec = spec,
                .data = data,
                .sequence_ranks = ulysses,
                .zero_stage = stage,
                .micro_batches = 2,
                .rows = 4,
                .ring = ring};
      INFO(cell.text());
      const Outcome reference = run_reference(cell);
      const CompileRequest request = frozen_request(cell);
      const CompiledModel model = compile_model(request);
      std::mutex mutex;
      std::string problem, difference;
      run_threads(cell.world(), [&](Communicator& world) {
        std::string mine;
        const Outcome outcome = run_rank(world, cell, request, model, mine);
        const std::lock_guard lock(mutex);
        if (!mine.empty()) problem = mine;
        if (world.rank() > 0) return 0;
        const auto source = random_parameters(spec, 11);
        for (const Parameter& one : parameters(spec)) {
          const std::string name = name_of(StateKey{Role::gradient, one.name});
          if (outcome.gradients.contains(name) == frozen(one.name)) difference = name + " is there or not";
          if (frozen(one.name)) {
            std::vector<double> before(static_cast<std::size_t>(one.elements()));
            source(one.name, 0, one.elements(), DType::float64, before.data());
            if (outcome.parameters.at(one.name) != before) difference = one.name + " moved";
            continue;
          }
          const auto &a = outcome.gradients.at(name), &b = reference.gradients.at(name);
          double error = 0, size = 0;
          for (std::size_t i = 0; i < a.size(); ++i) {
            error += (a[i] - b[i]) * (a[i] - b[i]);
            size += b[i] * b[i];
          }
          if (!(error <= 1e-20 * size + 1e-28)) difference = fmt::format("{}: {} of {}", name, error, size);
        }
        return 0;
      });
      CHECK(problem == "");
      CHECK(difference == "");
    }
}

TEST_CASE("a run with frozen parameters verifies, resumes with them, and refuses others", "[threads][numbers]") {
  const SmallExperiment small(small_llama());
  const fs::path run = small.folder() / "run";
  const auto load = [&](std::vector<std::string> more) {
    more.insert(more.begin(), {"job.folder=" + run.string(), "training.frozen=[embedding.*, '*norm.weight']",
                               "training.global_batch_size=4", "training.micro_batch_size=1"});
    return small.load(more);
  };
  for (const std::string split : {"1", "2", "{ring: 2}", "{gather_kv: 2}"})
    for (const std::string dtype : {"float64", "bfloat16"}) {
      INFO(split << " " << dtype);
      bool differs = true;
      run_threads(2, [&](Communicator& world) {
        const VerificationReport report =
            verify_run(world, load({"parallelism.sequence=" + split, "training.dtype=" + dtype}), {});
        if (world.rank() == 0) differs = report.differs;
        return 0;
      });
      CHECK_FALSE(differs);
    }
  const auto outcome = [&](const Experiment& experiment, int ranks) -> std::string {
    try {
      run_threads(ranks, [&](Communicator& world) { return train(world, experiment); });
    } catch (const std::exception& error) {
      return error.what();
    }
    return "";
  };
  for (const std::string dtype : {"float64", "bfloat16"}) {
    fs::remove_all(run);
    const std::string type = "training.dtype=" + dtype;
    CHECK(outcome(load({type}), 1) == "");
    CHECK(outcome(load({type, "training.steps=3", "parallelism.zero_stage=3"}), 2) == "");
    CHECK_THAT(outcome(load({type, "training.steps=4", "training.frozen=[]"}), 1),
               Contains("embedding.tokens was frozen until then, and by training.frozen it now is trained"));
    CHECK_THAT(outcome(load({type, "training.steps=4", "training.frozen=[embedding.*, '*norm.weight', head.*]"}), 1),
               Contains("head.weight was trained until then, and by training.frozen it now is frozen"));
  }
  CHECK_THAT(outcome(load({"training.frozen=[embedding.*, encoder.*]"}), 1),
             Contains("training.frozen holds \"encoder.*\", which no parameter of the model matches"));
  CHECK_THAT(outcome(load({"training.frozen=['*']"}), 1), Contains("matches every parameter"));
}

}  // namespace longhaul
