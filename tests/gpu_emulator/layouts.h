// Which element of a matrix lies in which register of which thread, and where in shared memory. One table for the
// emulator (which obeys it) and the conformance test (which checks the hardware against it). Beside each stands the
// title of the section of NVIDIA's PTX ISA manual that it was written from.
#pragma once
#include <cstdint>

namespace longhaul::gpu_layout {

struct Place {
  int row, column;
};

// "Matrix Fragments for mma.m16n8k16 with floating point type": A is 16 x 16, eight elements a lane, two a register.
constexpr Place mma_a(int lane, int element) {
  return {lane / 4 + (element & 2 ? 8 : 0), 2 * (lane % 4) + (element & 1) + (element & 4 ? 8 : 0)};
}
// B is 16 x 8 (row = k, column = n), four elements a lane.
constexpr Place mma_b(int lane, int element) {
  return {2 * (lane % 4) + (element & 1) + (element & 2 ? 8 : 0), lane / 4};
}
// C and D are 16 x 8, four elements a lane.
constexpr Place mma_c(int lane, int element) {
  return {lane / 4 + (element & 2 ? 8 : 0), 2 * (lane % 4) + (element & 1)};
}

// "Warp-level matrix load instruction: ldmatrix", "... matrix store instruction: stmatrix": of an 8 x 8 matrix of
// 16-bit elements, a lane holds two neighbours of one row; with .trans, of one column.
constexpr Place ldmatrix_element(int lane, int element) {
  return {lane / 4, 2 * (lane % 4) + element};
}
// Lane that gives the address of row `row` of matrix `matrix` (.x4).
constexpr int ldmatrix_row_lane(int matrix, int row) {
  return matrix * 8 + row;
}

// "Register Fragments and Shared Memory Matrix Layouts", wgmma.mma_async.m64nNk16: A in registers, 64 x 16, thread =
// index in the warpgroup; a warp holds 16 rows laid out as mma_a.
constexpr Place wgmma_a(int thread, int element) {
  const Place place = mma_a(thread % 32, element);
  return {thread / 32 * 16 + place.row, place.column};
}
// D is 64 x N, N / 2 elements a thread.
constexpr Place wgmma_d(int thread, int element) {
  const Place place = mma_c(thread % 32, element % 4);
  return {thread / 32 * 16 + place.row, element / 4 * 8 + place.column};
}

// "Matrix Descriptor Format": addresses and strides in 16-byte units, the swizzle mode in the top two bits (1 = 128
// bytes).
constexpr std::uint32_t descriptor_start(std::uint64_t descriptor) {
  return (descriptor & 0x3fff) << 4;
}
constexpr std::uint32_t descriptor_leading_bytes(std::uint64_t descriptor) {
  return (descriptor >> 16 & 0x3fff) << 4;
}
constexpr std::uint32_t descriptor_stride_bytes(std::uint64_t descriptor) {
  return (descriptor >> 32 & 0x3fff) << 4;
}
constexpr int descriptor_base_offset(std::uint64_t descriptor) {
  return descriptor >> 49 & 7;
}
constexpr int descriptor_swizzle(std::uint64_t descriptor) {
  return static_cast<int>(descriptor >> 62);
}

// "Swizzling Modes", 128 bytes: bits 4-6 of an address (its 16-byte chunk in a 128-byte line) are xored with bits 7-9
// (the line in an atom of eight). Tensor copies and wgmma agree on it.
constexpr std::uint32_t swizzle_128(std::uint32_t address) {
  return address ^ ((address >> 7 & 7) << 4);
}

// "Strides", "Canonical layouts": shared address of element (outer, k) of a 128-byte-swizzled operand, outer being m or
// n. K-major: lines of 64 elements along k, eight of outer an atom, the next atom `stride` bytes on.
constexpr std::uint32_t wgmma_k_major(std::uint64_t descriptor, int outer, int k) {
  return swizzle_128(descriptor_start(descriptor) + outer / 8 * descriptor_stride_bytes(descriptor) + outer % 8 * 128 +
                     k * 2);
}
// MN-major: lines of 64 elements along outer, eight k an atom, the next eight k `stride` bytes on, the next 64 of outer
// `leading` bytes on. A start within a line (a multiple of 16 bytes) shifts outer.
constexpr std::uint32_t wgmma_mn_major(std::uint64_t descriptor, int outer, int k) {
  return swizzle_128(descriptor_start(descriptor) + outer / 64 * descriptor_leading_bytes(descriptor) + outer % 64 * 2 +
                     k / 8 * descriptor_stride_bytes(descriptor) + k % 8 * 128);
}

}  // namespace longhaul::gpu_layout
