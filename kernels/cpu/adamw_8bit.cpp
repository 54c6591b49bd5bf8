#include "kernels/cpu/adamw_8bit.h"

#include <vector>

#include "kernels/cpu/dynamic_map.h"
#include "kernels/cpu/support.h"

namespace longhaul::cpu {
namespace {

// Blocks that are decoded at a time: 16 KiB of moments, which stay in the nearest cache.
constexpr std::int64_t together = 8;

// Elements [begin, end) of the step, which begin a block, with moments that lie at m and v.
AdamW part_of(const AdamW& whole, std::int64_t begin, std::int64_t end, float* m, float* v) {
  AdamW part = whole;
  part.parameter = static_cast<float*>(whole.parameter) + begin;
  part.gradient =
      static_cast<const char*>(whole.gradient) + begin * static_cast<std::int64_t>(size_of(whole.gradient_type));
  if (whole.copy) part.copy = whole.copy + begin;
  part.m = m;
  part.v = v;
  part.moment_type = DType::float32;
  part.count = end - begin;
  return part;
}

template <typename Each>
void each_block(const AdamW8Bit& p, std::int64_t begin, std::int64_t end, Each&& each) {
  for (std::int64_t first = begin; first < end; first += moment_block)
    each(first / moment_block, first, std::min(moment_block, p.step.count - first));
}

void decode(const AdamW8Bit& p, std::int64_t begin, std::int64_t end, float* m, float* v) {
  each_block(p, begin, end, [&](std::int64_t block, std::int64_t first, std::int64_t count) {
    decode_block(DynamicMap::of(true), p.m_codes + first, p.m_scales[block], count, m + (first - begin));
    decode_block(DynamicMap::of(false), p.v_codes + first, p.v_scales[block], count, v + (first - begin));
  });
}

void encode(const AdamW8Bit& p, std::int64_t begin, std::int64_t end, const float* m, const float* v) {
  each_block(p, begin, end, [&](std::int64_t block, std::int64_t first, std::int64_t count) {
    p.m_scales[block] = encode_block(DynamicMap::of(true), m + (first - begin), count, p.m_codes + first);
    p.v_scales[block] = encode_block(DynamicMap::of(false), v + (first - begin), count, p.v_codes + first);
  });
}

}  // namespace

void adamw_8bit(ThreadPool& pool, const AdamW8Bit& p, const VectorTable& table) {
  parallel_for(pool, moment_blocks(p.step.count), together, [&](std::int64_t from, std::int64_t to) {
    const std::int64_t begin = from * moment_block, end = std::min(p.step.count, to * moment_block);
    alignas(64) float m[together * moment_block], v[together * moment_block];
    decode(p, begin, end, m, v);
    table.adamw[p.step.gradient_type](part_of(p.step, begin, end, m, v), 0, end - begin);
    encode(p, begin, end, m, v);
  });
}

namespace reference {

void adamw_8bit(const AdamW8Bit& p) {
  std::vector<float> m(static_cast<std::size_t>(p.step.count)), v(m.size());
  decode(p, 0, p.step.count, m.data(), v.data());
  adamw(part_of(p.step, 0, p.step.count, m.data(), v.data()));
  encode(p, 0, p.step.count, m.data(), v.data());
}

}  // namespace reference
}  // namespace longhaul::cpu
