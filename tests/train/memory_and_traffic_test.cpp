// Sharding that is sharding: what each rank keeps and sends, by formula, so that replication cannot pose as it.
#include <catch2/catch.hpp>

#include "ranks.h"

namespace longhaul {
namespace {

using namespace testing;

std::int64_t kept(const CompiledModel& model, MemoryCategory category) {
  std::int64_t bytes = 0;
  for (const auto& [name, slot] : model.named.slots)
    if (slot.category == category) bytes += slot.bytes;
  return bytes;
}

// Named buffers are rounded up to cache lines; with p tensors a sum may exceed the exact one by 64 bytes each.
void check_about(std::int64_t bytes, double exact, std::size_t tensors) {
  CHECK(static_cast<double>(bytes) >= exact);
  CHECK(static_cast<double>(bytes) <= exact + 64.0 * static_cast<double>(tensors));
}

}  // namespace

TEST_CASE("each ZeRO stage keeps a fraction of the state, each rank of the sequence a fraction of the activations") {
  const TransformerSpec spec = small_llama();
  double count = 0;
  const auto all = parameters(spec);
  for (const auto& parameter : all) count += static_cast<double>(parameter.elements());
  const auto compiled = [&](int data, int sequence, int stage) {
    const Cell cell{.spec = spec,
                    .data = data,
                    .sequence_ranks = sequence,
                    .zero_stage = stage,
                    .rows = 4,
                    .sequence = 32,
                    .dtype = DType::float32};
    return compile_model(request_for(cell));
  };
  for (const auto& [data, sequence] : {std::pair{1, 4}, {2, 2}, {4, 1}})
    for (int stage = 0; stage <= 3; ++stage) {
      INFO("dp " << data << " sp " << sequence << " zero " << stage);
      const CompiledModel model = compiled(data, sequence, stage);
      const double shard = std::ceil(count / 4);
      check_about(kept(model, MemoryCategory::optimizer), stage >= 1 ? 8 * shard : 8 * count, 3 * all.size());
      check_about(kept(model, MemoryCategory::gradients), stage >= 1 ? 4 * shard : 4 * count, 2 * all.size());
      check_about(kept(model, MemoryCategory::parameters), stage >= 3 ? 4 * shard : 4 * count, 2 * all.size());
    }
  // Saved activations scale with 1 / ranks of the sequence; of those exchanged for attention, two KV heads are repeated
  // for four ranks.
  const auto saved = [&](int sequence) {
    const CompiledModel model = compiled(1, sequence, 0);
    return static_cast<double>(model.program(ProgramKind::accumulate_only)
                                   .plan.peak_by_category[static_cast<std::size_t>(MemoryCategory::saved_activations)]);
  };
  CHECK(saved(4) < 0.33 * saved(1));
}

TEST_CASE("Ulysses sends what its formula says, and ZeRO what its stage says") {
  const TransformerSpec spec = small_llama();
  double count = 0;
  for (const auto& parameter : parameters(spec)) count += static_cast<double>(parameter.elements());
  const std::int64_t rows = 2, sequence = 32, ranks = 2, heads = 4, kv_heads = 2, head_dim = 8, layers = 2;
  for (int stage = 0; stage <= 3; ++stage) {
    const Cell cell{.spec = spec,
                    .sequence_ranks = static_cast<int>(ranks),
                    .zero_stage = stage,
                    .rows = rows,
                    .sequence = sequence,
                    .dtype = DType::float32};
    const CompiledModel model = compile_model(request_for(cell));
    std::map<std::string, double> bytes;
    for (const ProgramKind kind : {ProgramKind::accumulate_only, ProgramKind::update})
      for (const auto& row : predicted_traffic("", model.program(kind), 0))
        bytes[row.collective] += static_cast<double>(row.bytes_sent);
    INFO("zero " << stage);
    // q, k, v there and o back, forward; o's gradient there and q's, k's, v's back, backward: (n − 1) / n of each
    // rank's share, twice; with o's gradient a number a head.
    const double tensors = static_cast<double>(2 * heads + 2 * kv_heads) * static_cast<double>(head_dim);
    CHECK(bytes["all_to_all"] ==
          static_cast<double>(layers * rows * sequence / ranks) * (2 * tensors + heads) * 4 * (ranks - 1) / ranks);
    const double shard = count / ranks * 4 * (ranks - 1), slack = 64.0 * 8 * 40;
    // Gradients: all-reduce at stage 0, reduce-scatter otherwise. Parameters: gathered after the update at 1 and 2, for
    // forward and backward at 3.
    if (stage == 0) CHECK(std::abs(bytes["all_reduce"] - 2 * shard) < slack);
    CHECK(std::abs(bytes["reduce_scatter"] - (stage ? shard : 0)) < slack);
    if (stage == 1 || stage == 2) {
      const double indices = 4.0 * rows * sequence / ranks * (ranks - 1) * 2;  // index and key_start, once
      CHECK(std::abs(bytes["all_gather"] - shard - indices) < slack);
    }
    if (stage == 3) CHECK(bytes["all_gather"] > 1.5 * shard);
  }
}

}  // namespace longhaul
