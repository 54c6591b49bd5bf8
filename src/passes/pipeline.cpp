#include "base/error.h"
#include "ir/verifier.h"
#include "passes/pass.h"

namespace longhaul {

std::string_view name_of(ProgramKind kind) {
  static constexpr std::string_view names[] = {
      "evaluate", "count", "accumulate_only", "accumulate_first", "accumulate_middle", "accumulate_last", "update"};
  return names[static_cast<std::size_t>(kind)];
}

const std::vector<Pass>& pipeline() {
  static const std::vector<Pass> table = {
      // the specification
      {"loss", passes::loss},
      {"differentiate", passes::differentiate},
      {"optimizer", passes::optimizer},
      // place
      {"assign_precision", passes::assign_precision},
      {"tile_loss_head", passes::tile_loss_head},
      {"choose_attention", passes::choose_attention},
      {"shard_state", passes::shard_state},
      {"partition", passes::partition, Stage::placed},
      // expand
      {"recompute", passes::recompute, Stage::placed},
      {"cse", passes::common_subexpressions, Stage::placed},
      {"expand_window", passes::expand_window, Stage::placed},
      {"expand_ring", passes::expand_ring, Stage::placed},
      {"fuse", passes::fuse, Stage::placed},
      {"keep_gathered", passes::keep_gathered, Stage::placed},
      {"tile_mlp", passes::tile_mlp, Stage::placed},
      {"chunk_heads", passes::chunk_heads, Stage::placed},
      // schedule
      {"lower_reshards", passes::lower_reshards, Stage::lowered},
      {"place_casts", passes::place_casts, Stage::lowered},
      {"coalesce", passes::coalesce, Stage::lowered},
      {"schedule", passes::schedule, Stage::lowered},
      {"offload", passes::offload, Stage::lowered},
      {"overlap", passes::overlap, Stage::lowered},
  };
  return table;
}

int specification_passes() {
  return 3;
}

void run_passes(Graph& graph, const PassContext& context, int begin, int end, const PassObserver& observer,
                const PassHook& after) {
  if (begin == 0 && observer) observer(nullptr, graph);
  bool changed = false;  // by the hook
  for (int i = begin; i < end; ++i) {
    const Pass& pass = pipeline()[static_cast<std::size_t>(i)];
    pass.run(graph, context);
    if (!changed) {
      const std::string problem = verify(graph, pass.stage);
      LONGHAUL_CHECK(problem.empty(), "pass {} left an illegal graph '{}': {}", pass.name, graph.name, problem);
    }
    if (after) changed |= after(pass, graph, context);
    if (observer) observer(&pass, graph);
  }
}

}  // namespace longhaul
