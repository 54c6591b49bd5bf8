// ldmatrix, stmatrix and mma.sync.
#include "kernels/cuda/gpu.h"

namespace longhaul::gpu {
namespace layout = gpu_layout;

void emulate_ldmatrix(MatrixArgument** lanes, bool transposed, emulator::Site site) {
  emulator::statistics.ldmatrix++;
  const int warp = emulator::block->current / 32 * 32;
  for (int matrix = 0; matrix < 4; matrix++) {
    std::uint16_t m[8][8];
    int chunk_uses[8] = {};
    for (int row = 0; row < 8; row++) {
      const int lane = layout::ldmatrix_row_lane(matrix, row);
      const std::uint32_t address = lanes[lane]->address;
      const char* from = emulator::shared_at(address, 16, "ldmatrix row", site);
      emulator::check_read(address, 16, warp + lane, site, "ldmatrix");
      std::memcpy(m[row], from, 16);
      chunk_uses[address / 16 % 8]++;
    }
    emulator::statistics.ldmatrix_extra_waves += *std::max_element(chunk_uses, chunk_uses + 8) - 1;
    for (int lane = 0; lane < 32; lane++) {
      std::uint32_t word = 0;
      for (int e = 0; e < 2; e++) {
        const layout::Place at = layout::ldmatrix_element(lane, e);
        word |= static_cast<std::uint32_t>(transposed ? m[at.column][at.row] : m[at.row][at.column]) << 16 * e;
      }
      lanes[lane]->registers[matrix] = word;
    }
  }
}

void emulate_stmatrix(MatrixArgument** lanes, emulator::Site site) {
  const int warp = emulator::block->current / 32 * 32;
  for (int matrix = 0; matrix < 4; matrix++) {
    std::uint16_t m[8][8];
    for (int lane = 0; lane < 32; lane++)
      for (int e = 0; e < 2; e++) {
        const layout::Place at = layout::ldmatrix_element(lane, e);
        m[at.row][at.column] = static_cast<std::uint16_t>(lanes[lane]->registers[matrix] >> 16 * e);
      }
    for (int row = 0; row < 8; row++) {
      const int lane = layout::ldmatrix_row_lane(matrix, row);
      const std::uint32_t address = lanes[lane]->address;
      char* to = emulator::shared_at(address, 16, "stmatrix row", site);
      // Every lane of the row's data takes part: the address lane stands for them.
      emulator::check_write(address, 16, warp + lane, site, "stmatrix");
      std::memcpy(to, m[row], 16);
    }
  }
}

void emulate_mma(MmaArgument** lanes) {
  emulator::statistics.mma++;
  float a[16][16], b[16][8], product[16][8] = {};
  for (int lane = 0; lane < 32; lane++) {
    for (int e = 0; e < 8; e++) {
      const layout::Place at = layout::mma_a(lane, e);
      a[at.row][at.column] = bfloat16_of(lanes[lane]->a[e / 2], e & 1);
    }
    for (int e = 0; e < 4; e++) {
      const layout::Place at = layout::mma_b(lane, e);
      b[at.row][at.column] = bfloat16_of(lanes[lane]->b[e / 2], e & 1);
    }
  }
  for (int i = 0; i < 16; i++)
    for (int k = 0; k < 16; k++)
      for (int j = 0; j < 8; j++) product[i][j] += a[i][k] * b[k][j];
  for (int lane = 0; lane < 32; lane++)
    for (int e = 0; e < 4; e++) {
      const layout::Place at = layout::mma_c(lane, e);
      lanes[lane]->d[e] += product[at.row][at.column];
    }
}

}  // namespace longhaul::gpu
