// What a split moves of windows. That every split computes the specification is tests/proof.
#include <catch2/catch.hpp>

#include "ranks.h"

namespace longhaul {
namespace {

using namespace testing;

// A model of our own whose layers have different head counts, dimensions and windows.
TransformerSpec mixed_layers() {
  TransformerSpec spec = small_llama();
  LayerSpec wide = small_layer(8, 2, 8, 20), narrow = small_layer(4, 1, 16, 24), window = small_layer(6, 2, 8, 16);
  window.attention.window = 4;
  spec.layers = {{1, wide}, {1, window}, {1, narrow}};
  return spec;
}

}  // namespace

TEST_CASE("a window moves only blocks that it reaches") {
  Cell cell{.spec = mixed_layers(), .rows = 1, .sequence = 32, .ring = 4};
  const auto shifted = [&](std::int64_t window) {
    for (auto& group : cell.spec.layers) group.layer.attention.window = window;
    const CompiledModel model = compile_model(request_for(cell));
    std::int64_t bytes = 0;
    for (const auto& row : predicted_traffic("", model.program(ProgramKind::accumulate_only), 0))
      if (row.collective == "shift") bytes += row.bytes_sent;
    return bytes;
  };
  CHECK(shifted(8) < shifted(0));
  CHECK(shifted(8) < shifted(10));  // one block back, or two
  CHECK(shifted(1) == 0);           // only itself
}

}  // namespace longhaul
