// The balanced token order under every split: equal to one rank, and nothing of a program depends on it.
#include <catch2/catch.hpp>

#include "ranks.h"

namespace longhaul {
namespace {

using namespace testing;

struct Split {
  int ulysses, ring, gather;
};
constexpr Split splits[] = {{1, 2, 1}, {1, 3, 1}, {1, 4, 1}, {1, 1, 2}, {1, 1, 3}, {2, 2, 1}, {2, 1, 2}};

void check_splits(Cell cell, const std::vector<int>& stages) {
  const Outcome reference = run_reference(cell);
  cell.order = TokenOrder::balanced;
  for (const Split& split : splits)
    for (const int stage : stages) {
      cell.sequence_ranks = split.ulysses;
      cell.ring = split.ring;
      cell.gather = split.gather;
      cell.zero_stage = stage;
      std::string problem;
      const Outcome outcome = run_ranks(cell, problem);
      INFO(cell.text());
      CHECK(problem == "");
      CHECK(difference(outcome, reference, tolerance::float64) == "");
    }
}

}  // namespace

TEST_CASE("packed documents in balanced order equal one rank", "[threads]") {
  check_splits({.spec = small_llama(), .rows = 3, .sequence = 48, .masking = Masking::packed}, {0, 3});
  check_splits({.spec = small_gpt2(), .rows = 2, .sequence = 41, .masking = Masking::packed}, {1});
  check_splits({.spec = small_qwen3(), .micro_batches = 3, .rows = 1, .sequence = 64, .masking = Masking::packed}, {2});
}

TEST_CASE("other masks in balanced order equal one rank", "[threads]") {
  for (const Masking masking : {Masking::plain, Masking::uneven, Masking::one_rank_ignored})
    check_splits({.spec = small_qwen3(), .rows = 2, .sequence = 48, .masking = masking}, {3});
}

TEST_CASE("data-parallel groups each deal out their own documents", "[threads]") {
  Cell cell{.spec = small_llama(), .data = 2, .rows = 2, .sequence = 32, .masking = Masking::packed};
  const Outcome reference = run_reference(cell);
  cell.ring = 2;
  cell.order = TokenOrder::balanced;
  std::string problem;
  CHECK(difference(run_ranks(cell, problem), reference, tolerance::float64) == "");
  CHECK(problem == "");
}

TEST_CASE("in a balanced order a window moves every block, for anything may be anywhere") {
  Cell cell{.spec = small_qwen3(), .rows = 1, .sequence = 64, .ring = 4, .order = TokenOrder::balanced};
  const auto shifted = [&](std::int64_t window) {
    for (auto& group : cell.spec.layers) group.layer.attention.window = window;
    const CompiledModel model = compile_model(request_for(cell));
    std::int64_t bytes = 0;
    for (const auto& row : predicted_traffic("", model.program(ProgramKind::accumulate_only), 0))
      if (row.collective == "shift") bytes += row.bytes_sent;
    return bytes;
  };
  CHECK(shifted(2) == shifted(0));
}

TEST_CASE("what the placement says a rank attends to is what its buffers make visible", "[threads]") {
  Cell cell{.spec = small_llama(), .rows = 1, .sequence = 96, .masking = Masking::packed};
  cell.ring = 3;
  for (const TokenOrder order : {TokenOrder::balanced, TokenOrder::zigzag, TokenOrder::contiguous}) {
    cell.order = order;
    const CompileRequest request = request_for(cell);
    const CompiledModel model = compile_model(request);
    const HostBatch batch = make_batch(cell.spec, 1, cell.sequence, 0, cell.masking);
    std::vector<std::int32_t> starts;
    for (std::size_t i = 0; i < batch.key_start.size(); ++i)
      if (batch.key_start[i] == static_cast<std::int32_t>(i)) starts.push_back(batch.key_start[i]);
    run_threads(cell.world(), [&](Communicator& world) {
      CpuTarget cpu;
      Session session(world, cpu, request, model);
      fill_slice(session, batch, cell.sequence);
      const HostBatch& buffers = session.micro_batch();
      double visible = 0;
      for (std::size_t slot = 0; slot < buffers.index.size(); ++slot)
        visible += buffers.index[slot] - buffers.key_start[slot] + 1;
      visible *= 2 * 4 * 8;  // layers, heads, head_dim
      const auto shares = session.placement().shares(starts, static_cast<std::int32_t>(cell.sequence));
      static std::mutex mutex;
      const std::lock_guard lock(mutex);
      CHECK(shares.work(world.rank()) == visible);
      return 0;
    });
  }
}

}  // namespace longhaul
