// Layers with a window, whose ranks fetch only the keys that it reaches: every way, order and length against the
// specification.
#include <catch2/catch.hpp>

#include "ranks.h"

namespace longhaul {
namespace {

using namespace testing;

struct Way {
  int ulysses, ring, gather;
  std::map<std::string, std::string> windows = {};  // of layers with a window, where other than the rest
};

// Layers of different head counts, dimensions and windows, one of them without.
TransformerSpec windows(std::int64_t first, std::int64_t second) {
  TransformerSpec spec = small_llama();
  LayerSpec one = small_layer(8, 2, 4, 16), two = small_layer(4, 1, 8, 12), whole = small_layer(4, 2, 8, 12);
  one.attention.window = first;
  two.attention.window = second;
  two.attention.qk_norm = true;
  spec.layers = {{1, one}, {1, whole}, {1, two}};
  return spec;
}

void check(Cell cell, const std::vector<Way>& ways, const std::vector<TokenOrder>& orders,
           const std::vector<int>& stages) {
  const Outcome reference = run_reference(cell);
  for (const Way& way : ways)
    for (const TokenOrder order : orders)
      for (const int stage : stages) {
        cell.sequence_ranks = way.ulysses;
        cell.ring = way.ring;
        cell.gather = way.gather;
        cell.order = order;
        cell.window_axes = way.windows;
        cell.zero_stage = stage;
        std::string problem;
        const Outcome outcome = run_ranks(cell, problem);
        INFO(cell.text() << " window " << cell.spec.layers[0].layer.attention.window);
        CHECK(problem == "");
        CHECK(difference(outcome, reference, tolerance::float64) == "");
      }
}

const std::vector<TokenOrder> both = {TokenOrder::contiguous, TokenOrder::zigzag};
const std::vector<Way> all_ways = {{1, 2, 1}, {1, 3, 1}, {1, 4, 1}, {1, 1, 2}, {1, 1, 3},
                                   {1, 1, 4}, {2, 2, 1}, {2, 1, 2}, {4, 2, 1}};

}  // namespace

// Pieces of 24 tokens are of 12, 8 and 6, chunks of zigzag half of that.
TEST_CASE("windows of every length against a piece: none of it, some, all, several", "[threads][numbers]") {
  for (const auto& [one, two] : {std::pair{1, 2}, {3, 4}, {5, 6}, {7, 8}, {9, 12}, {13, 17}, {23, 24}, {25, 40}})
    check({.spec = windows(one, two), .rows = 2, .sequence = 24, .masking = Masking::uneven}, all_ways, both, {3});
}

TEST_CASE("windows under every ZeRO stage, with several sequences and accumulation", "[threads][numbers]") {
  check({.spec = windows(5, 9), .micro_batches = 3, .rows = 3, .sequence = 24}, {{1, 3, 1}, {1, 1, 3}, {2, 2, 1}}, both,
        {0, 1, 2, 3});
}

TEST_CASE("windows over packed documents, ignored ranks and lengths that do not divide", "[threads][numbers]") {
  for (const Masking masking : {Masking::packed, Masking::one_rank_ignored})
    check({.spec = windows(4, 9), .rows = 2, .sequence = 24, .masking = masking}, all_ways, both, {1});
  for (const std::int64_t length : {17, 22, 23})
    check({.spec = windows(4, 7), .rows = 1, .sequence = length, .masking = Masking::packed}, all_ways, both, {2});
}

// Layers without a window by what the mesh names, those with one by another strategy over the same ranks.
TEST_CASE("windows split another way than the layers without", "[threads][numbers]") {
  const std::vector<Way> ways = {{2, 1, 1, {{"ulysses", "gather"}}},
                                 {3, 1, 1, {{"ulysses", "ring"}}},
                                 {4, 1, 1, {{"ulysses", "gather"}}},
                                 {1, 3, 1, {{"ring", "gather"}}},
                                 {1, 1, 4, {{"gather", "ring"}}},
                                 {1, 2, 1, {{"ring", "ulysses"}}},
                                 {2, 2, 1, {{"ring", "gather"}}},
                                 {2, 2, 1, {{"ring", "gather"}, {"ulysses", "gather"}}},
                                 {2, 1, 2, {{"gather", "ring"}, {"ulysses", "ring"}}},
                                 {2, 2, 1, {{"ring", "ulysses"}}}};
  for (const auto& [one, two] : {std::pair{5, 9}, {2, 30}}) {
    TransformerSpec spec = windows(one, two);
    spec.layers[1].layer.attention.heads = 12;  // divide by 2, 3 and 4
    spec.layers[1].layer.attention.kv_heads = 3;
    check({.spec = spec, .rows = 2, .sequence = 24, .masking = Masking::packed}, ways, both, {0, 3});
    check({.spec = spec, .micro_batches = 2, .rows = 1, .sequence = 22, .masking = Masking::uneven}, ways, both, {2});
  }
  // Heads that no number of ranks divides, in the layers with a window only.
  TransformerSpec odd = windows(5, 9);
  odd.layers[0].layer.attention.heads = 7;
  odd.layers[0].layer.attention.kv_heads = 7;
  check({.spec = odd, .rows = 2, .sequence = 24},
        {{4, 1, 1, {{"ulysses", "gather"}}}, {2, 1, 1, {{"ulysses", "ring"}}}}, {TokenOrder::contiguous}, {1});
}

TEST_CASE("windows in low precision are as near to float64 as one rank is", "[threads][numbers]") {
  for (const DType dtype : {DType::float32, DType::bfloat16}) {
    Cell cell{.spec = windows(5, 9), .rows = 2, .sequence = 24, .masking = Masking::uneven, .dtype = dtype};
    const Outcome reference = run_reference(cell);
    std::string problem;
    const auto one = tensor_errors(run_ranks(cell, problem).gradients, reference.gradients);
    for (const Way& way : all_ways)
      for (const TokenOrder order : both) {
        cell.sequence_ranks = way.ulysses;
        cell.ring = way.ring;
        cell.gather = way.gather;
        cell.order = order;
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

TEST_CASE("a window moves as many rows as it reaches") {
  Cell cell{.spec = windows(1, 1), .rows = 1, .sequence = 32, .ring = 4};
  cell.spec.layers.erase(cell.spec.layers.begin() + 1);  // the layer without a window
  const auto shifted = [&](std::int64_t window) {
    for (auto& group : cell.spec.layers) group.layer.attention.window = window;
    const CompiledModel model = compile_model(request_for(cell));
    std::int64_t bytes = 0;
    for (const auto& row : predicted_traffic("", model.program(ProgramKind::accumulate_only), 0))
      if (row.collective == "shift") bytes += row.bytes_sent;
    return bytes;
  };
  CHECK(shifted(1) == 0);  // only itself
  const std::int64_t one = shifted(2);
  CHECK(one > 0);
  for (const std::int64_t window : {3, 8, 9, 10, 24}) CHECK(shifted(window) == (window - 1) * one);
  CHECK(shifted(25) == shifted(0));  // all that there is
}

}  // namespace longhaul
