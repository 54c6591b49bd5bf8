// Generic element-wise kernels, sums of columns, heads and rows.
#include <cmath>

#include "kernels/cuda/generic.cuh"
#include "kernels/cuda/launch.h"

namespace longhaul::cuda {
namespace {

constexpr int kRowsAPartial = 64, kMostPartials = 256;  // of column sums: constants, so that their order never changes

GPU_KERNEL GPU_LAUNCH_BOUNDS(kElementwiseThreads, 1) add_kernel(GPU_PARAMETER Add p) {
  for_each_element(p.count, [&](std::int64_t i) {
    if (p.type == Type::float64) {
      double sum = gpu::global_load_mutable(static_cast<const double*>(p.x[0]) + i);
      for (int k = 1; k < p.inputs; k++) sum += gpu::global_load_mutable(static_cast<const double*>(p.x[k]) + i);
      gpu::global_store(static_cast<double*>(p.y) + i, sum);
      return;
    }
    float sum = load_element(p.x[0], p.type, i);
    for (int k = 1; k < p.inputs; k++) sum += load_element(p.x[k], p.type, i);
    store_element(p.y, p.type, i, sum);
  });
}

GPU_KERNEL GPU_LAUNCH_BOUNDS(kElementwiseThreads, 1) scale_kernel(GPU_PARAMETER Scale p) {
  float factor = p.factor;
  if (p.square) {
    const double norm = sqrt(gpu::global_load(p.square));
    factor = static_cast<float>(factor / (norm > 1e-7 ? norm : 1e-7));
  }
  for_each_element(p.count,
                   [&](std::int64_t i) { store_element(p.y, p.type, i, load_element(p.x, p.type, i) * factor); });
}

GPU_KERNEL GPU_LAUNCH_BOUNDS(kElementwiseThreads, 1) add_bias_kernel(GPU_PARAMETER AddBias p) {
  for_each_element(p.rows * p.columns, [&](std::int64_t i) {
    store_element(p.y, p.type, i, load_element(p.x, p.type, i) + load_element(p.bias, p.bias_type, i % p.columns));
  });
}

struct ColumnSumParameters {
  ColumnSums call;
  std::int64_t rows_a_partial, partials;
};
// Thread (partial, column) adds its rows in order.
GPU_KERNEL GPU_LAUNCH_BOUNDS(kElementwiseThreads, 1) column_partials(GPU_PARAMETER ColumnSumParameters p) {
  for_each_element(p.partials * p.call.columns, [&](std::int64_t i) {
    const std::int64_t column = i % p.call.columns, first = i / p.call.columns * p.rows_a_partial;
    const std::int64_t last = first + p.rows_a_partial < p.call.rows ? first + p.rows_a_partial : p.call.rows;
    float sum = 0;
    for (std::int64_t row = first; row < last; row++)
      sum += load_element(p.call.x, p.call.type, row * p.call.columns + column);
    gpu::global_store(static_cast<float*>(p.call.workspace) + i, sum);
  });
}
GPU_KERNEL GPU_LAUNCH_BOUNDS(kElementwiseThreads, 1) column_totals(GPU_PARAMETER ColumnSumParameters p) {
  for_each_element(p.call.columns, [&](std::int64_t column) {
    float sum = 0;
    for (std::int64_t k = GPU_FAULT(column_sums_first_lost) ? 1 : 0; k < p.partials; k++)
      sum += gpu::global_load(static_cast<const float*>(p.call.workspace) + k * p.call.columns + column);
    store_element(p.call.out, p.call.out_type, column, sum);
  });
}

GPU_KERNEL GPU_LAUNCH_BOUNDS(kElementwiseThreads, 1) expand_heads_kernel(GPU_PARAMETER Heads p) {
  for_each_element(p.rows * p.many * p.head_dim, [&](std::int64_t i) {
    const std::int64_t d = i % p.head_dim, head = i / p.head_dim % p.many, row = i / p.head_dim / p.many;
    const std::int64_t from = (row * p.few + head / (p.many / p.few)) * p.head_dim + d;
    store_element(p.y, p.out_type, i, load_element(p.x, p.type, from));
  });
}
GPU_KERNEL GPU_LAUNCH_BOUNDS(kElementwiseThreads, 1) reduce_heads_kernel(GPU_PARAMETER Heads p) {
  const std::int32_t group = p.many / p.few;
  for_each_element(p.rows * p.few * p.head_dim, [&](std::int64_t i) {
    const std::int64_t first = i / p.head_dim * group * p.head_dim + i % p.head_dim;
    float sum = load_element(p.x, p.type, first);
    for (std::int32_t h = 1; h < group; h++) sum += load_element(p.x, p.type, first + h * p.head_dim);
    store_element(p.y, p.out_type, i, sum);
  });
}

GPU_KERNEL GPU_LAUNCH_BOUNDS(kElementwiseThreads, 1) add_rows_kernel(GPU_PARAMETER AddRows p) {
  for_each_element(p.batch * p.part_rows * p.width, [&](std::int64_t i) {
    const std::int64_t run = p.part_rows * p.width, at = (i / run * p.rows + p.first) * p.width + i % run;
    store_element(p.x, p.type, at, load_element(p.x, p.type, at) + load_element(p.part, p.type, i));
  });
}

template <typename Call>
void run(void (*kernel)(Call), std::int64_t count, const Call& call, Stream stream) {
  if (count > 0) gpu::launch(kernel, dim3(elementwise_blocks(count)), kElementwiseThreads, 0, call, native(stream));
}

ColumnSumParameters plan(const ColumnSums& call) {
  std::int64_t partials = divide_up<std::int64_t>(call.rows, kRowsAPartial);
  partials = partials < 1 ? 1 : partials > kMostPartials ? kMostPartials : partials;
  return {call, divide_up(call.rows, partials), partials};
}

}  // namespace

void add(const Add& call, Stream stream) {
  require(call.inputs >= 1 && call.inputs <= kMaximumInputs,
          "add: 1 to " + std::to_string(kMaximumInputs) + " tensors, not " + std::to_string(call.inputs));
  run(add_kernel, call.count, call, stream);
}
void scale(const Scale& call, Stream stream) {
  run(scale_kernel, call.count, call, stream);
}
void add_bias(const AddBias& call, Stream stream) {
  run(add_bias_kernel, call.rows * call.columns, call, stream);
}
std::size_t column_sums_workspace(std::int64_t rows, std::int64_t columns) {
  ColumnSums call{};
  call.rows = rows;
  return static_cast<std::size_t>(plan(call).partials * columns) * sizeof(float);
}
void column_sums(const ColumnSums& call, Stream stream) {
  require(call.workspace, "column_sums: workspace is null");
  const ColumnSumParameters p = plan(call);
  run(column_partials, p.partials * call.columns, p, stream);
  run(column_totals, call.columns, p, stream);
}
void expand_heads(const Heads& call, Stream stream) {
  require(call.few > 0 && call.many % call.few == 0, "expand_heads: many heads must be a multiple of the few");
  run(expand_heads_kernel, call.rows * call.many * call.head_dim, call, stream);
}
void reduce_heads(const Heads& call, Stream stream) {
  require(call.few > 0 && call.many % call.few == 0, "reduce_heads: many heads must be a multiple of the few");
  run(reduce_heads_kernel, call.rows * call.few * call.head_dim, call, stream);
}
void add_rows(const AddRows& call, Stream stream) {
  require(call.first >= 0 && call.first + call.part_rows <= call.rows, "add_rows: the part lies beyond the rows");
  run(add_rows_kernel, call.batch * call.part_rows * call.width, call, stream);
}

}  // namespace longhaul::cuda
