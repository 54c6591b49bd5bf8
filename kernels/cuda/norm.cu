// RMSNorm and LayerNorm over the last dimension, with the residual addition before them, forward and backward. A team
// of threads holds a row in registers, so its data is read once.
#include "kernels/cuda/launch.h"
#include "kernels/cuda/vectors.cuh"

namespace longhaul::cuda {
namespace {

constexpr int kChunks = 4;           // vectors of a row that one thread holds
constexpr int kThreads = 512;        // at most
constexpr int kPartialBlocks = 256;  // partial sums of dweight: a constant, so that their order never changes

struct Teams {
  int team, threads, rows_a_block;
  Teams(std::int32_t columns, int width) {
    team = 1;
    while (team * kChunks * width < columns) team *= 2;
    threads = team <= 32 ? 128 : team;  // a team of several warps is the whole block
    rows_a_block = threads / team;
  }
};

template <typename T, bool LAYER>
GPU_KERNEL GPU_LAUNCH_BOUNDS(kThreads, 1) norm_forward_kernel(GPU_PARAMETER NormForward p) {
  constexpr int W = kWidth<T>;
  int team = 1;
  while (team * kChunks * W < p.columns) team *= 2;
  const int lane = gpu::thread_index() & (team - 1), vectors = p.columns / W;
  const std::int64_t row =
      static_cast<std::int64_t>(gpu::block_x()) * (gpu::block_threads() / team) + gpu::thread_index() / team;
  const bool live = row < p.rows;
  const std::int64_t at = row * p.columns;
  const T* x = static_cast<const T*>(p.x) + at;
  float value[kChunks][W];
  float sum = 0;
#pragma unroll
  for (int c = 0; c < kChunks; c++) {
    const int v = c * team + lane;
#pragma unroll
    for (int i = 0; i < W; i++) value[c][i] = 0;
    if (!live || v >= vectors) continue;
    load_vector<T>(value[c], x + v * W);
    if (p.residual) {
      float residual[W];
      load_vector<T>(residual, static_cast<const T*>(p.residual) + at + v * W);
#pragma unroll
      for (int i = 0; i < W; i++) value[c][i] += residual[i];
      // What is normalised is what is stored: the backward reads that.
      const uint4 rounded = pack<T>(value[c]);
      unpack<T>(rounded, value[c]);
      if (p.sum) gpu::global_store(reinterpret_cast<uint4*>(static_cast<T*>(p.sum) + at + v * W), rounded);
    }
  }
  const float inverse_columns = 1.0f / static_cast<float>(p.columns);
  float mean = 0;
  if (LAYER) {
#pragma unroll
    for (int c = 0; c < kChunks; c++)
#pragma unroll
      for (int i = 0; i < W; i++) sum += value[c][i];
    mean = team_sum(sum, team, gpu::shared_base()) * inverse_columns;
  }
  float squares = 0;
#pragma unroll
  for (int c = 0; c < kChunks; c++)
    if (c * team + lane < vectors)
#pragma unroll
      for (int i = 0; i < W; i++) squares += (value[c][i] - mean) * (value[c][i] - mean);
  squares = team_sum(squares, team, gpu::shared_base());
  const float inverse = gpu::inverse_square_root(squares * inverse_columns + p.epsilon);
  if (live && lane == 0 && p.inverse_deviation) {
    gpu::global_store(p.inverse_deviation + row, inverse);
    if (LAYER) gpu::global_store(p.mean + row, mean);
  }
#pragma unroll
  for (int c = 0; c < kChunks; c++) {
    const int v = c * team + lane;
    if (!live || v >= vectors) continue;
    float weight[W], y[W];
    load_vector<T>(weight, static_cast<const T*>(p.weight) + v * W);
#pragma unroll
    for (int i = 0; i < W; i++) y[i] = (value[c][i] - mean) * inverse * weight[i];
    if (LAYER) {
      float bias[W];
      load_vector<T>(bias, static_cast<const T*>(p.bias) + v * W);
#pragma unroll
      for (int i = 0; i < W; i++) y[i] += bias[i];
    }
    store_vector<T>(static_cast<T*>(p.y) + at + v * W, y);
  }
}

// dx = inverse (g - xhat mean(g xhat) - mean(g)) with g = dy weight; the last term only with LAYER. dweight = sum of
// dy xhat: a block sums its rows in registers, then its teams in turn, and writes one partial row.
template <typename T, bool LAYER>
GPU_KERNEL GPU_LAUNCH_BOUNDS(kThreads, 1) norm_backward_kernel(GPU_PARAMETER NormBackward p) {
  constexpr int W = kWidth<T>;
  int team = 1;
  while (team * kChunks * W < p.columns) team *= 2;
  const int lane = gpu::thread_index() & (team - 1), vectors = p.columns / W;
  const int rows_a_block = gpu::block_threads() / team, my_team = gpu::thread_index() / team;
  const std::uint32_t scratch = gpu::shared_base(), sums = scratch + 128;
  const float inverse_columns = 1.0f / static_cast<float>(p.columns);
  float dweight[kChunks][W] = {}, dbias[LAYER ? kChunks : 1][W] = {};

  for (std::int64_t row0 = static_cast<std::int64_t>(gpu::block_x()) * rows_a_block; row0 < p.rows;
       row0 += static_cast<std::int64_t>(gpu::grid_x()) * rows_a_block) {
    const std::int64_t row = row0 + my_team, at = row * p.columns;
    const bool live = row < p.rows;
    float inverse = live && p.inverse_deviation ? gpu::global_load(p.inverse_deviation + row) : 0;
    float mean = live && LAYER && p.inverse_deviation ? gpu::global_load(p.mean + row) : 0;
    uint4 x_packets[kChunks], dy_packets[kChunks];  // kept packed: half the registers
    float along = 0, total = 0;
#pragma unroll
    for (int c = 0; c < kChunks; c++) {
      const int v = c * team + lane;
      x_packets[c] = dy_packets[c] = uint4{0, 0, 0, 0};
      if (!live || v >= vectors) continue;
      x_packets[c] = gpu::global_load_mutable(reinterpret_cast<const uint4*>(static_cast<const T*>(p.x) + at + v * W));
      dy_packets[c] =
          gpu::global_load_mutable(reinterpret_cast<const uint4*>(static_cast<const T*>(p.dy) + at + v * W));
    }
    if (!p.inverse_deviation) {  // the row is here: its statistics need no memory
      float sum = 0, squares = 0;
      if (LAYER) {
#pragma unroll
        for (int c = 0; c < kChunks; c++) {
          float x[W];
          unpack<T>(x_packets[c], x);
#pragma unroll
          for (int i = 0; i < W; i++) sum += x[i];
        }
        mean = team_sum(sum, team, scratch) * inverse_columns;
      }
#pragma unroll
      for (int c = 0; c < kChunks; c++) {
        float x[W];
        unpack<T>(x_packets[c], x);
        if (c * team + lane < vectors)
#pragma unroll
          for (int i = 0; i < W; i++) squares += (x[i] - mean) * (x[i] - mean);
      }
      inverse = gpu::inverse_square_root(team_sum(squares, team, scratch) * inverse_columns + p.epsilon);
    }
#pragma unroll
    for (int c = 0; c < kChunks; c++) {
      const int v = c * team + lane;
      if (!live || v >= vectors) continue;
      float x[W], dy[W], weight[W];
      unpack<T>(x_packets[c], x), unpack<T>(dy_packets[c], dy);
      load_vector<T>(weight, static_cast<const T*>(p.weight) + v * W);
#pragma unroll
      for (int i = 0; i < W; i++) {
        const float normal = (x[i] - mean) * inverse, g = dy[i] * weight[i];
        along += g * normal, total += g;
        dweight[c][i] += dy[i] * normal;
        if (LAYER) dbias[c][i] += dy[i];
      }
    }
    along = team_sum(along, team, scratch) * inverse_columns;
    total = LAYER ? team_sum(total, team, scratch) * inverse_columns : 0;
#pragma unroll
    for (int c = 0; c < kChunks; c++) {
      const int v = c * team + lane;
      if (!live || v >= vectors) continue;
      float x[W], dy[W], weight[W], dx[W];
      unpack<T>(x_packets[c], x), unpack<T>(dy_packets[c], dy);
      load_vector<T>(weight, static_cast<const T*>(p.weight) + v * W);
#pragma unroll
      for (int i = 0; i < W; i++) dx[i] = inverse * (dy[i] * weight[i] - (x[i] - mean) * inverse * along - total);
      if (p.dresidual) {
        float residual[W];
        load_vector<T>(residual, static_cast<const T*>(p.dresidual) + at + v * W);
#pragma unroll
        for (int i = 0; i < W; i++) dx[i] += residual[i];
      }
      store_vector<T>(static_cast<T*>(p.dx) + at + v * W, dx);
    }
  }

  constexpr int kSums = LAYER ? 2 : 1;
  float* partial = static_cast<float*>(p.workspace) + static_cast<std::int64_t>(gpu::block_x()) * kSums * p.columns;
  for (int turn = 0; turn < rows_a_block; turn++) {
    if (my_team == turn) {
#pragma unroll
      for (int c = 0; c < kChunks; c++) {
        const int v = c * team + lane;
        if (v >= vectors) continue;
#pragma unroll
        for (int which = 0; which < kSums; which++)
#pragma unroll
          for (int i = 0; i < W; i++) {
            float value = which ? dbias[LAYER ? c : 0][i] : dweight[c][i];
            const int column = which * p.columns + v * W + i;
            if (rows_a_block == 1) {
              gpu::global_store(partial + column, value);
            } else {
              if (turn) value += gpu::shared_load<float>(sums + column * 4);
              gpu::shared_store(sums + column * 4, value);
            }
          }
      }
    }
    if (rows_a_block > 1 && !GPU_FAULT(norm_backward_turn_barrier)) gpu::block_sync();
  }
  if (rows_a_block > 1)
    for (int i = gpu::thread_index(); i < kSums * p.columns; i += gpu::block_threads())
      gpu::global_store(partial + i, gpu::shared_load<float>(sums + i * 4));
}

struct ColumnSumParameters {
  const float* partial;                 // [rows][columns]
  std::int32_t rows, columns, weights;  // the first `weights` columns belong to dweight
  float *dweight, *dbias;
  std::int32_t accumulate;
};
// 32 columns a block, eight strips of rows; strips are added in order.
GPU_KERNEL GPU_LAUNCH_BOUNDS(256, 1) norm_column_sums(GPU_PARAMETER ColumnSumParameters p) {
  const int lane = gpu::thread_index() & 31, strip = gpu::thread_index() / 32, column = gpu::block_x() * 32 + lane;
  float sum = 0;
  if (column < p.columns)
    for (int row = strip; row < p.rows; row += 8)
      sum += gpu::global_load(p.partial + static_cast<std::int64_t>(row) * p.columns + column);
  const std::uint32_t at = gpu::shared_base();
  gpu::shared_store(at + gpu::thread_index() * 4, sum);
  gpu::block_sync();
  if (strip || column >= p.columns) return;
  float total = 0;
  for (int i = 0; i < 8; i++) total += gpu::shared_load<float>(at + (i * 32 + lane) * 4);
  float* to = column < p.weights ? p.dweight + column : p.dbias + (column - p.weights);
  gpu::global_store(to, p.accumulate ? gpu::global_load_mutable(to) + total : total);
}

void check(const char* name, std::int32_t columns, Type type) {
  const int width = type == Type::bfloat16 ? 8 : 4, most = kThreads * kChunks * width;
  require(columns > 0 && columns % width == 0 && columns <= most,
          std::string(name) + ": columns must be a multiple of " + std::to_string(width) + " up to " +
              std::to_string(most) + ", not " + std::to_string(columns));
}

}  // namespace

void norm_forward(const NormForward& call, Stream stream) {
  check("norm_forward", call.columns, call.type);
  require(call.residual || !call.sum, "norm_forward: sum without residual");
  auto run = [&](auto kernel, int width) {
    const Teams teams(call.columns, width);
    gpu::launch(kernel, dim3(static_cast<unsigned>(divide_up<std::int64_t>(call.rows, teams.rows_a_block))),
                teams.threads, 128, call, native(stream));
  };
  if (call.rows == 0) return;
  if (call.type == Type::bfloat16)
    run(call.layer ? norm_forward_kernel<gpu::bfloat16, true> : norm_forward_kernel<gpu::bfloat16, false>, 8);
  else
    run(call.layer ? norm_forward_kernel<float, true> : norm_forward_kernel<float, false>, 4);
}

std::size_t norm_workspace(std::int32_t columns) {
  return sizeof(float) * kPartialBlocks * 2 * columns;
}

void norm_backward(const NormBackward& call, Stream stream) {
  check("norm_backward", call.columns, call.type);
  require(call.workspace && call.dweight && (call.dbias || !call.layer),
          "norm_backward: workspace, dweight or dbias is null");
  const int width = call.type == Type::bfloat16 ? 8 : 4;
  const Teams teams(call.columns, width);
  std::int64_t blocks = divide_up<std::int64_t>(call.rows, teams.rows_a_block);
  blocks = blocks < 1 ? 1 : blocks > kPartialBlocks ? kPartialBlocks : blocks;
  const int sums = call.layer ? 2 : 1;
  const std::size_t shared = 128 + (teams.rows_a_block > 1 ? sizeof(float) * sums * call.columns : 0);
  auto run = [&](auto kernel) {
    gpu::launch(kernel, dim3(static_cast<unsigned>(blocks)), teams.threads, shared, call, native(stream));
  };
  if (call.type == Type::bfloat16)
    run(call.layer ? norm_backward_kernel<gpu::bfloat16, true> : norm_backward_kernel<gpu::bfloat16, false>);
  else
    run(call.layer ? norm_backward_kernel<float, true> : norm_backward_kernel<float, false>);
  const ColumnSumParameters columns{static_cast<const float*>(call.workspace),
                                    static_cast<std::int32_t>(blocks),
                                    sums * call.columns,
                                    call.columns,
                                    call.dweight,
                                    call.dbias,
                                    call.accumulate};
  gpu::launch(norm_column_sums, dim3(divide_up(sums * call.columns, 32)), 256, 1024, columns, native(stream));
}

}  // namespace longhaul::cuda
