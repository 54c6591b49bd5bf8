// N ranks compute what one rank computes: what the matrix (tests/proof) does not vary.
#include <catch2/catch.hpp>

#include "ranks.h"

namespace longhaul {
namespace {

using namespace testing;

void check_cell(const Cell& cell, const Outcome& reference) {
  std::string problem;
  const Outcome outcome = run_ranks(cell, problem);
  INFO(cell.text());
  CHECK(problem == "");
  CHECK(difference(outcome, reference, tolerance::float64) == "");
}

}  // namespace

TEST_CASE("one rank computes the specification, and its gradients are not zero") {
  for (const auto& spec : {small_llama(), small_gpt2(), small_qwen3()}) {
    const Cell cell{.spec = spec, .masking = Masking::uneven};
    const Outcome reference = run_reference(cell);
    for (const auto& [name, values] : reference.gradients) {
      INFO(name);
      // A bias on all keys shifts every score of a row alike, and softmax does not see it: zero by symmetry.
      if (name.ends_with("attention.k.bias"))
        CHECK(norm(values) < 1e-12);
      else
        CHECK(norm(values) > 1e-8);
    }
    check_cell(cell, reference);
  }
}

TEST_CASE("fewer KV heads than ranks, and KV heads that do not divide", "[threads]") {
  for (const std::int64_t kv_heads : {1, 3, 6}) {
    TransformerSpec spec = small_llama();
    spec.layers = {{2, small_layer(12, kv_heads, 8, 24)}};
    Cell cell{.spec = spec, .rows = 2, .masking = Masking::uneven};
    const Outcome reference = run_reference(cell);
    for (const int ranks : {2, 3, 4}) {
      cell.sequence = 24;
      cell.sequence_ranks = ranks;
      cell.zero_stage = ranks - 1;
      const Outcome longer = run_reference(cell);
      check_cell(cell, longer);
    }
  }
}

TEST_CASE("a step without any valid token changes nothing but decay, and nothing is NaN", "[threads]") {
  TransformerSpec spec = small_llama();
  Cell cell{.spec = spec, .data = 1, .sequence_ranks = 2, .zero_stage = 3, .rows = 2, .sequence = 1};
  cell.masking = Masking::uneven;  // with S = 1 every label is valid or ignored by the pattern; make all ignored below
  const CompileRequest request = request_for(cell);
  const CompiledModel model = compile_model(request);
  run_threads(2, [&](Communicator& world) {
    CpuTarget cpu;
    Session session(world, cpu, request, model);
    session.set_parameters(random_parameters(spec, 11));
    const StepResult result = session.step(1, 1e-2, 1, [&](std::int64_t) {
      HostBatch batch = make_batch(spec, 2, 1, 0, Masking::plain);
      for (auto& label : batch.labels) label = -100;
      fill_slice(session, batch, 1);
    });
    if (result.loss != 0 || result.valid_tokens != 0 || result.grad_norm != 0)
      throw std::runtime_error("a step without valid tokens moved");
    return 0;
  });
}

}  // namespace longhaul
