// What a step costs as sequences and ranks grow: outside attention nothing is quadratic in S, in no instruction's
// memory, work or traffic; and a large model compiles for many ranks in no time.
#include <catch2/catch.hpp>
#include <ctime>

#include "base/sanitizers.h"
#include "ranks.h"

namespace longhaul {
namespace {

using namespace testing;

// Of each instruction that is no attention, with its operands' and results' bytes, scratch, FLOPs and bytes sent.
struct Cost {
  std::string op;
  double bytes = 0, scratch = 0, flops = 0, sent = 0;
};

std::vector<Cost> costs(const Program& program) {
  const Graph& graph = program.graph;
  std::vector<Cost> all;
  for (std::size_t i = 0; i < graph.ops.size(); ++i) {
    const Op& op = graph.ops[i];
    Cost cost{op.definition->name};
    for (const auto* list : {&op.operands, &op.results})
      for (const ValueId id : *list)
        cost.bytes += static_cast<double>(size_of(graph[id].dtype)) *
                      static_cast<double>(local_count(graph[id].shape, graph[id].layout, graph.mesh));
    cost.scratch = static_cast<double>(program.plan.scratch_bytes[i]);
    if (op.definition->flops) cost.flops = op.definition->flops(graph, op, graph.mesh);
    if (op.definition->communication) cost.sent = static_cast<double>(CommunicationStep(graph, op, 0).bytes_sent());
    all.push_back(cost);
  }
  return all;
}

// The arena without gaps between buffers, which fall as they fall.
std::int64_t most_live(const CompiledModel& model) {
  std::int64_t most = 0;
  for (const auto& program : model.programs) most = std::max(most, program->plan.peak_live_bytes);
  return model.named.bytes + most;
}

}  // namespace

TEST_CASE("outside attention nothing of a step is quadratic in S") {
  // auto makes more again the longer sequences are, for attention then hides it.
  for (const auto& [dtype, mode] : {std::pair{DType::float32, ActivationMode::keep},
                                    {DType::bfloat16, ActivationMode::keep},
                                    {DType::bfloat16, ActivationMode::recompute}})
    for (const auto& [ulysses, ring, gather] : {std::tuple{1, 1, 1}, {2, 1, 1}, {1, 2, 1}, {1, 1, 2}, {2, 2, 1}}) {
      Cell cell{.spec = small_qwen3(),
                .sequence_ranks = ulysses,
                .zero_stage = 3,
                .micro_batches = 2,
                .rows = 1,
                .dtype = dtype,
                .ring = ring,
                .gather = gather};
      const auto compiled = [&, mode = mode](std::int64_t length) {
        cell.sequence = length;
        CompileRequest request = request_for(cell);
        request.options.schedule.activations = mode;
        request.options.schedule.tile_rows = 1 << 20;  // none: longer sequences have more tiles, that is instructions
        return compile_model(request);
      };
      const CompiledModel once = compiled(4096), twice = compiled(8192);
      INFO(cell.text());
      CHECK(most_live(twice) <= 2 * most_live(once));
      for (const CompiledModel* model : {&once, &twice})  // few buffers, all of a size with the others: gaps are large
        CHECK(static_cast<double>(model->arena_bytes) <= 1.06 * static_cast<double>(most_live(*model)));
      double attention_once = 0, attention_twice = 0;
      for (std::size_t p = 0; p < once.programs.size(); ++p) {
        const auto a = costs(*once.programs[p]), b = costs(*twice.programs[p]);
        REQUIRE(a.size() == b.size());
        // Alignment: each operand, result and tensor of a message may be padded.
        constexpr double padding = 64 * 64;
        for (std::size_t i = 0; i < a.size(); ++i) {
          INFO("instruction " << i << " of " << once.programs[p]->graph.name << ", " << a[i].op);
          REQUIRE(a[i].op == b[i].op);
          CHECK(b[i].bytes <= 2 * a[i].bytes);
          CHECK(b[i].scratch <= 2 * a[i].scratch + padding);
          CHECK(b[i].sent <= 2 * a[i].sent);
          const bool attention = a[i].op.starts_with("attention") && a[i].op != "attention_merge";
          if (attention) {
            attention_once += a[i].flops;
            attention_twice += b[i].flops;
          } else {
            CHECK(b[i].flops <= 2 * a[i].flops);
          }
        }
      }
      CHECK(attention_once > 0);
      CHECK(attention_twice > 2 * attention_once);  // the test would see it
    }
}

TEST_CASE("80 layers compile for 1024 ranks within two seconds") {
  TransformerSpec spec = small_llama();
  spec.layers = {{80, small_layer(64, 8, 128, 28672)}};
  spec.hidden_size = 8192;
  spec.vocabulary = 128256;
  Cell cell{.spec = spec,
            .data = 8,
            .sequence_ranks = 8,
            .zero_stage = 3,
            .micro_batches = 1,
            .rows = 8,
            .sequence = 1 << 17,
            .dtype = DType::bfloat16,
            .ring = 16,
            .order = TokenOrder::zigzag};
  const std::clock_t begin = std::clock();  // CPU time: other work on this machine does not count
  const CompiledModel model = compile_model(request_for(cell));
  const double seconds = static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
  INFO(seconds << " s of CPU time");
  CHECK(static_cast<double>(model.arena_bytes) <= 1.03 * static_cast<double>(most_live(model)));
  CHECK(model.program(ProgramKind::accumulate_only).graph.ops.size() > 5000);
#if defined(NDEBUG) && !defined(LONGHAUL_ADDRESS_SANITIZER) && !defined(LONGHAUL_THREAD_SANITIZER)
  CHECK(seconds < 2);
#endif
}

}  // namespace longhaul
