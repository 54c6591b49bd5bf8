// N ranks compute what one rank computes: loss, every gradient tensor, and the parameters after two steps, against the
// specification in float64.
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

constexpr std::pair<int, int> splits[] = {{1, 2}, {2, 1}, {2, 2}, {1, 4}, {4, 1}};

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

TEST_CASE("ranks x ZeRO x accumulation x masks equal one rank in float64", "[threads]") {
  for (const auto& spec : {small_llama(), small_gpt2(), small_qwen3()})
    for (const std::int64_t micro_batches : {1, 2, 3})
      for (const Masking masking : {Masking::plain, Masking::uneven, Masking::one_rank_ignored, Masking::packed}) {
        if (micro_batches > 1 && masking != Masking::uneven) continue;
        Cell cell{.spec = spec, .micro_batches = micro_batches, .rows = 4, .masking = masking};
        const Outcome reference = run_reference(cell);
        for (const auto& [data, sequence] : splits)
          for (cell.zero_stage = 0; cell.zero_stage <= 3; ++cell.zero_stage) {
            cell.data = data;
            cell.sequence_ranks = sequence;
            check_cell(cell, reference);
          }
      }
}

TEST_CASE("a sequence that does not divide is padded with identical results", "[threads]") {
  for (const auto& spec : {small_llama(), small_gpt2(), small_qwen3()})
    for (const std::int64_t length : {13, 15}) {
      Cell cell{.spec = spec, .rows = 4, .sequence = length, .masking = Masking::uneven};
      const Outcome reference = run_reference(cell);
      for (const auto& [data, sequence] : splits)
        for (const int stage : {0, 3}) {
          cell.data = data;
          cell.sequence_ranks = sequence;
          cell.zero_stage = stage;
          check_cell(cell, reference);
        }
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
    Session session(world, request, model);
    session.set_parameters(random_parameters(spec, 11));
    const StepResult result = session.step(1, 1e-2, 1, [&](std::int64_t) {
      GlobalBatch batch = make_batch(spec, 2, 1, 0, Masking::plain);
      for (auto& label : batch.labels) label = -100;
      fill_slice(session, batch, 1);
    });
    if (result.loss != 0 || result.valid_tokens != 0 || result.grad_norm != 0)
      throw std::runtime_error("a step without valid tokens moved");
    return 0;
  });
}

// error_N <= 2 · max(error_1, unit roundoff of the dtype), every error against float64.
TEST_CASE("float32 and bfloat16 on ranks are as near to float64 as one rank is", "[threads]") {
  for (const DType dtype : {DType::float32, DType::bfloat16})
    for (const auto& spec : {small_llama(), small_gpt2(), small_qwen3()}) {
      Cell cell{.spec = spec, .micro_batches = 2, .rows = 4, .masking = Masking::uneven, .dtype = dtype};
      const Outcome reference = run_reference(cell);
      std::string problem;
      const auto one = tensor_errors(run_ranks(cell, problem).gradients, reference.gradients);
      for (const auto& [data, sequence] : splits)
        for (const int stage : {0, 1, 2, 3}) {
          cell.data = data;
          cell.sequence_ranks = sequence;
          cell.zero_stage = stage;
          const Outcome outcome = run_ranks(cell, problem);
          INFO(cell.text());
          CHECK(problem == "");
          for (const auto& [name, error] : tensor_errors(outcome.gradients, reference.gradients)) {
            INFO(name << ": error " << error << ", one rank " << one.at(name));
            CHECK(error <= tolerance::ratio_to_one_rank * std::max(one.at(name), unit_roundoff(dtype)));
          }
        }
    }
}

}  // namespace longhaul
