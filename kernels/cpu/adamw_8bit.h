// AdamW with moments in 8 bits (arXiv 2110.02861).
#pragma once
#include <cstdint>

#include "kernels/cpu/adamw.h"

namespace longhaul::cpu {

/// One step, in place: moments are decoded, `step` (adamw.h; float32) is taken with them, and what it leaves is encoded
/// again, each block of moment_block elements by a scale of its own; the last block is what is left. The parameter
/// follows moments that were not rounded. Scales of 0 are moments of 0, whatever the codes.
struct AdamW8Bit {
  AdamW step;                       ///< m and v, which are not read, aside
  std::uint8_t *m_codes, *v_codes;  ///< [count] of the signed and of the unsigned map (dynamic_map.h)
  float *m_scales, *v_scales;       ///< [moment_blocks(count)]
};

void adamw_8bit(ThreadPool& pool, const AdamW8Bit& problem, const VectorTable& table = vector_table());
namespace reference {
void adamw_8bit(const AdamW8Bit& problem);
}

}  // namespace longhaul::cpu
