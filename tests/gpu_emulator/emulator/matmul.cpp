// What the vendor's library of matrix products does, as loops on the host: packed panels, each result summed over k in
// float32 and rounded once. It has two algorithms, for the choice of one must be kept as a GPU's: k in order, and by
// runs of eight that are summed apart. configure("matmul", "ORDER=1") makes the second the one that is chosen.
#pragma GCC optimize("O3")
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <vector>

#include "kernels/cuda/device.h"

namespace longhaul::cuda {
namespace {

constexpr int kRows = 4, kColumns = 16;
constexpr std::int64_t kRun = 8;  // of k
std::atomic<int> chosen{0};       // what the library prefers

float value_at(const void* data, Type type, std::int64_t i) {
  return type == Type::bfloat16 ? static_cast<float>(static_cast<const gpu::bfloat16*>(data)[i])
                                : static_cast<const float*>(data)[i];
}

// Bytes that a matrix of `rows` rows, `stride` elements apart, covers.
std::size_t covered(std::int64_t rows, std::int64_t columns, std::int64_t stride, Type type) {
  return static_cast<std::size_t>((rows - 1) * stride + columns) * (type == Type::bfloat16 ? 2 : 4);
}

// Groups of W of the kept dimension, k after k: to[group][k][W], zeros where the dimension ends.
template <int W>
std::vector<float> pack(const void* data, Type type, std::int64_t size, std::int64_t k, std::int64_t step,
                        std::int64_t k_step) {
  std::vector<float> to(static_cast<std::size_t>(divide_up<std::int64_t>(size, W) * W * k), 0.0f);
  for (std::int64_t i = 0; i < size; i++)
    for (std::int64_t j = 0; j < k; j++)
      to[static_cast<std::size_t>((i / W * k + j) * W + i % W)] = value_at(data, type, i * step + j * k_step);
  return to;
}

void multiply(const Matmul& p, bool by_runs) {
  const auto check = [](const void* data, std::size_t bytes, const char* name) {
    if (!emulator::is_global(data, bytes))
      throw emulator::Fault(std::string("matmul: ") + name + " lies outside every registered buffer");
  };
  check(p.a, p.a_transposed ? covered(p.k, p.m, p.a_stride, p.type) : covered(p.m, p.k, p.a_stride, p.type), "a");
  check(p.b, p.b_transposed ? covered(p.n, p.k, p.b_stride, p.type) : covered(p.k, p.n, p.b_stride, p.type), "b");
  check(p.c, covered(p.m, p.n, p.c_stride, p.out_type), "c");
  const void* const addend = p.addend ? p.addend : p.c;
  if (p.beta != 0) check(addend, covered(p.m, p.n, p.c_stride, p.out_type), "the addend");
  const std::vector<float> a =
      pack<kRows>(p.a, p.type, p.m, p.k, p.a_transposed ? 1 : p.a_stride, p.a_transposed ? p.a_stride : 1);
  const std::vector<float> b =
      pack<kColumns>(p.b, p.type, p.n, p.k, p.b_transposed ? p.b_stride : 1, p.b_transposed ? 1 : p.b_stride);
  for (std::int64_t i0 = 0; i0 < p.m; i0 += kRows)
    for (std::int64_t j0 = 0; j0 < p.n; j0 += kColumns) {
      const float *rows = a.data() + i0 * p.k, *columns = b.data() + j0 * p.k;
      float sum[kRows][kColumns] = {};
      for (std::int64_t begin = 0; begin < p.k;) {
        const std::int64_t end = by_runs ? std::min(begin + kRun, p.k) : p.k;
        float part[kRows][kColumns] = {};
        for (std::int64_t k = begin; k < end; k++, rows += kRows, columns += kColumns)
          for (int r = 0; r < kRows; r++)
            for (int c = 0; c < kColumns; c++) part[r][c] += rows[r] * columns[c];
        for (int r = 0; r < kRows; r++)
          for (int c = 0; c < kColumns; c++) sum[r][c] = begin == 0 ? part[r][c] : sum[r][c] + part[r][c];
        begin = end;
      }
      for (std::int64_t i = i0; i < std::min(i0 + kRows, p.m); i++)
        for (std::int64_t j = j0; j < std::min(j0 + kColumns, p.n); j++) {
          const std::int64_t at = i * p.c_stride + j;
          float value = p.alpha * sum[i - i0][j - j0];
          if (p.beta != 0) value += p.beta * value_at(addend, p.out_type, at);
          if (p.out_type == Type::bfloat16)
            static_cast<gpu::bfloat16*>(p.c)[at] = gpu::bfloat16(value);
          else
            static_cast<float*>(p.c)[at] = value;
        }
    }
}

void matmul(const Matmul& call, Stream stream) {
  require(call.m >= 0 && call.n >= 0 && call.k >= 0, "matmul: a size is negative");
  require(call.a_stride >= (call.a_transposed ? call.m : call.k) &&
              call.b_stride >= (call.b_transposed ? call.k : call.n) && call.c_stride >= call.n,
          "matmul: rows overlap");
  if (call.m == 0 || call.n == 0) return;
  const std::uint64_t order = call.algorithm ? call.algorithm->words[0] : static_cast<std::uint64_t>(chosen.load());
  require(order <= 1, "matmul: an algorithm that was not made here");
  emulator::enqueue(native(stream), [call, order] { multiply(call, order == 1); });
}

int order_in(const char* text) {
  int order = 0, length = 0;
  require(std::sscanf(text, "ORDER=%d%n", &order, &length) == 1 && text[length] == '\0' && (order == 0 || order == 1),
          std::string("an algorithm of the emulator's products is garbled: ") + text);
  return order;
}

void matmul_library(char* text) {
  std::snprintf(text, 64, "loops of the emulator");
}

void matmul_choose(const Matmul*, std::int32_t, char* text) {
  std::snprintf(text, 256, "ORDER=%d", chosen.load());
}

void matmul_algorithm(const Matmul*, const char* text, MatmulAlgorithm* algorithm) {
  *algorithm = {{static_cast<std::uint64_t>(order_in(text))}};
}

}  // namespace

void device::add_libraries(Api& api) {
  api.matmul = GuardedCall<matmul>::call;
  api.matmul_library = Guarded<matmul_library>::call;
  api.matmul_choose = Guarded<matmul_choose>::call;
  api.matmul_algorithm = Guarded<matmul_algorithm>::call;
}

}  // namespace longhaul::cuda

void longhaul::emulator::prefer_matmul(const char* text) {
  cuda::chosen = cuda::order_in(text);
}
