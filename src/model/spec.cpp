#include "model/spec.h"

#include "base/error.h"

namespace longhaul {

std::int64_t TransformerSpec::layer_count() const {
  std::int64_t count = 0;
  for (const LayerGroup& group : layers) count += group.repeat;
  return count;
}

const LayerSpec& TransformerSpec::layer(std::int64_t index) const {
  std::int64_t left = index;
  for (const LayerGroup& group : layers) {
    if (left < group.repeat && left >= 0) return group.layer;
    left -= group.repeat;
  }
  LONGHAUL_CHECK(false, "layer {} of {}", index, layer_count());
}

std::vector<const LayerSpec*> TransformerSpec::each_layer() const {
  std::vector<const LayerSpec*> result;
  for (const LayerGroup& group : layers)
    for (std::int64_t i = 0; i < group.repeat; ++i) result.push_back(&group.layer);
  return result;
}

void merge_equal_groups(TransformerSpec& spec) {
  std::vector<LayerGroup> merged;
  for (const LayerGroup& group : spec.layers) {
    if (!merged.empty() && merged.back().layer == group.layer)
      merged.back().repeat += group.repeat;
    else
      merged.push_back(group);
  }
  spec.layers = std::move(merged);
}

}  // namespace longhaul
