// Where warps are parts of waves: AMD's CDNA runs 64 lanes in lock step, and each half of such a wave is a warp of 32
// to our kernels. Here are the primitives of warps over those of waves, and what such a device has no instruction of
// our layout for, products of matrices and their loads, over shuffles and loads: right and slow, no matrix unit is
// used. hip.h and the emulator in lock step both use this source; each brings, before it,
//
//   wave_lane()                     the lane in the wave
//   wave_shuffle(value, lane)       the value of another lane of the wave, which must be active
//   wave_ballot(vote)               a bit for each active lane of the wave that votes
//   GPU_UNROLL                      asks for the loop behind it to be unrolled whole, so that arrays are registers
//
// The emulator gives the place of the call as a last argument.
#pragma once
#include <cstdint>

namespace longhaul::gpu::by_lanes {

template <typename T, typename... Place>
GPU_DEVICE T shuffle(T value, int source, Place... place) {
  const int half = GPU_FAULT(wave_shuffle_width) ? 0 : wave_lane() & 32;
  return wave_shuffle(value, half | (source & 31), place...);
}
template <typename T, typename... Place>
GPU_DEVICE T shuffle_xor(T value, int mask, Place... place) {
  return wave_shuffle(value, wave_lane() ^ mask, place...);
}
template <typename... Place>
GPU_DEVICE std::uint32_t ballot(bool vote, Place... place) {
  const int half = GPU_FAULT(wave_ballot_low) ? 0 : wave_lane() & 32;
  return static_cast<std::uint32_t>(wave_ballot(vote, place...) >> half);
}

/// copy_async_16, done when it returns.
GPU_DEVICE void copy_16(std::uint32_t destination, const void* source, bool valid) {
  uint4 value = {0, 0, 0, 0};
  if (valid) value = global_load(static_cast<const uint4*>(source));
  shared_store(destination, value);
}

/// Lane i of the warp gives the address of a row of 16 bytes: eight rows a matrix.
GPU_DEVICE void ldmatrix_x4(std::uint32_t (&r)[4], std::uint32_t address) {
  const int lane = wave_lane() & 31;
  GPU_UNROLL
  for (int matrix = 0; matrix < 4; matrix++) {
    const std::uint32_t row = by_lanes::shuffle(address, matrix * 8 + lane / 4);
    r[matrix] = shared_load<std::uint32_t>(row + static_cast<std::uint32_t>(lane % 4 * 4));
  }
}
GPU_DEVICE void ldmatrix_x4_transposed(std::uint32_t (&r)[4], std::uint32_t address) {
  const int lane = wave_lane() & 31, column = lane / 4;
  GPU_UNROLL
  for (int matrix = 0; matrix < 4; matrix++) {
    std::uint32_t element[2];
    GPU_UNROLL
    for (int e = 0; e < 2; e++) {
      const std::uint32_t row = by_lanes::shuffle(address, matrix * 8 + 2 * (lane % 4) + e);
      const std::uint32_t word = shared_load<std::uint32_t>(row + static_cast<std::uint32_t>(column / 2 * 4));
      element[e] = column % 2 ? word >> 16 : word & 0xffff;
    }
    r[matrix] = element[0] | element[1] << 16;
  }
}

/// The four lanes from lane / 4 * 4 on hold the rows lane / 4 (a[0], a[2]) and lane / 4 + 8 (a[1], a[3]) of A, each two
/// elements from k = 2 j and two from k = 2 j + 8 on; the same lanes so the column lane / 4 of B. A lane has the
/// columns 2 (lane % 4) and the next of D. Products are added in the order of k, then to d.
GPU_DEVICE void mma_16x8x16(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  const int lane = wave_lane() & 31, rows_at = lane / 4 * 4, columns_at = lane % 4 * 8;
  const auto pair = [](std::uint32_t low, std::uint32_t high) { return static_cast<std::uint64_t>(high) << 32 | low; };
  const std::uint64_t b = pair(b0, b1);
  std::uint64_t column[2][4];
  GPU_UNROLL
  for (int j = 0; j < 4; j++) {
    column[0][j] = by_lanes::shuffle(b, columns_at + j);
    column[1][j] = by_lanes::shuffle(b, columns_at + 4 + j);
  }
  float sum[4] = {};
  GPU_UNROLL
  for (int half = 0; half < 2; half++) GPU_UNROLL
  for (int j = 0; j < 4; j++) {
    const std::uint64_t rows = by_lanes::shuffle(pair(a[2 * half], a[2 * half + 1]), rows_at + j);
    GPU_UNROLL
    for (int c = 0; c < 2; c++) {
      const float2 y = unpack_bfloat16(static_cast<std::uint32_t>(column[c][j] >> 32 * half));
      GPU_UNROLL
      for (int r = 0; r < 2; r++) {
        const float2 x = unpack_bfloat16(static_cast<std::uint32_t>(rows >> 32 * r));
        sum[2 * r + c] += x.x * y.x;
        sum[2 * r + c] += x.y * y.y;
      }
    }
  }
  GPU_UNROLL
  for (int i = 0; i < 4; i++) d[i] += sum[i];
}

}  // namespace longhaul::gpu::by_lanes
