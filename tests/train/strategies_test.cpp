// Every way to split a sequence, with every ZeRO stage: ring, KV all-gather, Ulysses, and their products, against the
// specification.
#include <catch2/catch.hpp>

#include "ranks.h"

namespace longhaul {
namespace {

using namespace testing;

struct Split {
  int ulysses, ring, gather;
};
constexpr Split splits[] = {{1, 2, 1}, {1, 3, 1}, {1, 4, 1}, {1, 1, 2}, {1, 1, 3}, {2, 2, 1}, {2, 1, 2}};

// A model of our own whose layers have different head counts, dimensions and windows.
TransformerSpec mixed_layers() {
  TransformerSpec spec = small_llama();
  LayerSpec wide = small_layer(8, 2, 8, 20), narrow = small_layer(4, 1, 16, 24), window = small_layer(6, 2, 8, 16);
  window.attention.window = 4;
  spec.layers = {{1, wide}, {1, window}, {1, narrow}};
  return spec;
}

void check_splits(Cell cell, const std::vector<int>& stages) {
  const Outcome reference = run_reference(cell);
  for (const Split& split : splits)
    for (const TokenOrder order : {TokenOrder::contiguous, TokenOrder::zigzag})
      for (const int stage : stages) {
        cell.sequence_ranks = split.ulysses;
        cell.ring = split.ring;
        cell.gather = split.gather;
        cell.order = order;
        cell.zero_stage = stage;
        std::string problem;
        const Outcome outcome = run_ranks(cell, problem);
        INFO(cell.text());
        CHECK(problem == "");
        CHECK(difference(outcome, reference, tolerance::float64) == "");
      }
}

}  // namespace

TEST_CASE("ring, gather and products equal one rank", "[threads]") {
  for (const auto& spec : {small_llama(), small_gpt2(), small_qwen3(), mixed_layers()})
    check_splits({.spec = spec, .rows = 3, .sequence = 24}, {0, 1, 2, 3});
}

TEST_CASE("ring, gather and products under uneven masks, ignored ranks and packed documents", "[threads]") {
  for (const auto& spec : {small_gpt2(), small_qwen3(), mixed_layers()})
    for (const Masking masking : {Masking::uneven, Masking::one_rank_ignored, Masking::packed})
      check_splits({.spec = spec, .rows = 2, .sequence = 24, .masking = masking}, {3});
}

TEST_CASE("ring, gather and products with lengths that do not divide, and accumulation", "[threads]") {
  for (const std::int64_t length : {17, 22, 23})
    check_splits({.spec = small_qwen3(), .rows = 1, .sequence = length, .masking = Masking::uneven}, {1});
  check_splits({.spec = mixed_layers(), .micro_batches = 3, .rows = 1, .sequence = 24, .masking = Masking::uneven},
               {0, 2, 3});
}

TEST_CASE("data parallelism outside ring and gather", "[threads]") {
  for (const auto& spec : {small_llama(), small_qwen3()}) {
    Cell cell{.spec = spec, .data = 2, .rows = 2, .sequence = 16, .masking = Masking::uneven};
    const Outcome reference = run_reference(cell);
    for (const auto& [ring, gather] : {std::pair{2, 1}, {1, 2}})
      for (cell.zero_stage = 0; cell.zero_stage <= 3; ++cell.zero_stage) {
        cell.ring = ring;
        cell.gather = gather;
        std::string problem;
        const Outcome outcome = run_ranks(cell, problem);
        INFO(cell.text());
        CHECK(problem == "");
        CHECK(difference(outcome, reference, tolerance::float64) == "");
      }
  }
}

TEST_CASE("float32 and bfloat16 under every split are as near to float64 as one rank is", "[threads]") {
  for (const DType dtype : {DType::float32, DType::bfloat16})
    for (const auto& spec : {small_llama(), mixed_layers()}) {
      Cell cell{.spec = spec, .rows = 2, .sequence = 24, .masking = Masking::uneven, .dtype = dtype};
      const Outcome reference = run_reference(cell);
      std::string problem;
      const auto one = tensor_errors(run_ranks(cell, problem).gradients, reference.gradients);
      for (const Split& split : splits)
        for (const TokenOrder order : {TokenOrder::contiguous, TokenOrder::zigzag}) {
          cell.sequence_ranks = split.ulysses;
          cell.ring = split.ring;
          cell.gather = split.gather;
          cell.order = order;
          cell.zero_stage = 3;
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
