// Norms of any number of columns: a warp a row, which it reads as often as it needs to.
#include "kernels/cuda/generic.cuh"
#include "kernels/cuda/launch.h"

namespace longhaul::cuda {
namespace {

constexpr int kThreads = 128, kRowsABlock = kThreads / 32;
constexpr int kRowsAPartial = 64, kMostPartials = 256;  // of weight gradients: constants, so that sums keep their order

struct Statistics {
  float mean, inverse;
};
// Every lane of the warp has them.
GPU_DEVICE Statistics statistics_of(const void* x, Type type, std::int64_t row, std::int64_t columns, Norm norm,
                                    float epsilon) {
  const int lane = gpu::thread_index() & 31;
  const float inverse_columns = 1.0f / static_cast<float>(columns);
  float mean = 0, squares = 0;
  if (norm != Norm::rms) {
    float sum = 0;
    for (std::int64_t c = lane; c < columns; c += 32) sum += load_element(x, type, row * columns + c);
    mean = warp_sum(sum) * inverse_columns;
  }
  if (norm == Norm::center) return {mean, 1};
  for (std::int64_t c = lane; c < columns; c += 32) {
    const float value = load_element(x, type, row * columns + c) - mean;
    squares += value * value;
  }
  return {mean, gpu::inverse_square_root(warp_sum(squares) * inverse_columns + epsilon)};
}

GPU_KERNEL GPU_LAUNCH_BOUNDS(kThreads, 1) generic_norm_kernel(GPU_PARAMETER GenericNorm p) {
  const std::int64_t row = static_cast<std::int64_t>(gpu::block_x()) * kRowsABlock + gpu::thread_index() / 32;
  if (row >= p.rows) return;  // a whole warp
  const Statistics s = statistics_of(p.x, p.type, row, p.columns, p.norm, p.epsilon);
  for (std::int64_t c = gpu::thread_index() & 31; c < p.columns; c += 32) {
    float y = (load_element(p.x, p.type, row * p.columns + c) - s.mean) * s.inverse;
    if (p.norm != Norm::center) y *= load_element(p.weight, p.weight_type, c) + p.weight_offset;
    if (p.norm == Norm::layer) y += load_element(p.bias, p.weight_type, c);
    store_element(p.y, p.type, row * p.columns + c, y);
  }
}

struct GradientParameters {
  GenericNormGradient call;
  Statistics* statistics;  // [rows]
  float* partial;          // [partials][weights, biases]
  std::int64_t rows_a_partial, partials;
};

GPU_KERNEL GPU_LAUNCH_BOUNDS(kThreads, 1) generic_norm_statistics(GPU_PARAMETER GradientParameters p) {
  const GenericNormGradient& call = p.call;
  const std::int64_t row = static_cast<std::int64_t>(gpu::block_x()) * kRowsABlock + gpu::thread_index() / 32;
  if (row >= call.rows) return;
  const Statistics s = statistics_of(call.x, call.type, row, call.columns, call.norm, call.epsilon);
  if ((gpu::thread_index() & 31) == 0)
    gpu::global_store(reinterpret_cast<float2*>(p.statistics + row), float2{s.mean, s.inverse});
}

// Thread (partial, column) adds its rows in order. It comes before dx, which may be written over dy.
GPU_KERNEL GPU_LAUNCH_BOUNDS(kElementwiseThreads, 1) generic_norm_weights(GPU_PARAMETER GradientParameters p) {
  const GenericNormGradient& call = p.call;
  for_each_element(p.partials * call.columns, [&](std::int64_t i) {
    const std::int64_t column = i % call.columns, part = i / call.columns, first = part * p.rows_a_partial;
    const std::int64_t last = first + p.rows_a_partial < call.rows ? first + p.rows_a_partial : call.rows;
    float weight = 0, bias = 0;
    for (std::int64_t row = first; row < last; row++) {
      const float2 s = gpu::global_load(reinterpret_cast<const float2*>(p.statistics + row));
      const float dy = load_element(call.dy, call.type, row * call.columns + column);
      weight += dy * ((load_element(call.x, call.type, row * call.columns + column) - s.x) * s.y);
      bias += dy;
    }
    float* const to = p.partial + part * 2 * call.columns + column;
    gpu::global_store(to, weight);
    if (call.norm == Norm::layer) gpu::global_store(to + call.columns, bias);
  });
}
GPU_KERNEL GPU_LAUNCH_BOUNDS(kElementwiseThreads, 1) generic_norm_weight_totals(GPU_PARAMETER GradientParameters p) {
  const GenericNormGradient& call = p.call;
  const int sums = call.norm == Norm::layer ? 2 : 1;
  for_each_element(sums * call.columns, [&](std::int64_t i) {
    float sum = 0;
    for (std::int64_t k = 0; k < p.partials; k++) sum += gpu::global_load(p.partial + k * 2 * call.columns + i);
    gpu::global_store(i < call.columns ? call.dweight + i : call.dbias + (i - call.columns), sum);
  });
}

// dx = inverse (g - xhat mean(g xhat) - mean(g)) with g = dy (weight + offset); the last term of a layer norm only.
GPU_KERNEL GPU_LAUNCH_BOUNDS(kThreads, 1) generic_norm_inputs(GPU_PARAMETER GradientParameters p) {
  const GenericNormGradient& call = p.call;
  const std::int64_t row = static_cast<std::int64_t>(gpu::block_x()) * kRowsABlock + gpu::thread_index() / 32;
  if (row >= call.rows) return;
  const float2 s = gpu::global_load(reinterpret_cast<const float2*>(p.statistics + row));
  const auto normal_at = [&](std::int64_t c) {
    return (load_element(call.x, call.type, row * call.columns + c) - s.x) * s.y;
  };
  const auto slope_at = [&](std::int64_t c) {
    return load_element(call.dy, call.type, row * call.columns + c) *
           (load_element(call.weight, call.weight_type, c) + call.weight_offset);
  };
  float along = 0, total = 0;
  for (std::int64_t c = gpu::thread_index() & 31; c < call.columns; c += 32) {
    const float slope = slope_at(c);
    along += slope * normal_at(c), total += slope;
  }
  const float inverse_columns = 1.0f / static_cast<float>(call.columns);
  along = warp_sum(along) * inverse_columns;
  total = call.norm == Norm::layer ? warp_sum(total) * inverse_columns : 0.0f;
  for (std::int64_t c = gpu::thread_index() & 31; c < call.columns; c += 32)
    store_element(call.dx, call.type, row * call.columns + c, s.y * (slope_at(c) - normal_at(c) * along - total));
}

std::int64_t partials_of(std::int64_t rows) {
  const std::int64_t partials = divide_up<std::int64_t>(rows, kRowsAPartial);
  return partials < 1 ? 1 : partials > kMostPartials ? kMostPartials : partials;
}
dim3 rows_grid(std::int64_t rows) {
  return dim3(static_cast<unsigned>(divide_up<std::int64_t>(rows, kRowsABlock)));
}

}  // namespace

void generic_norm(const GenericNorm& call, Stream stream) {
  require(call.columns > 0, "generic_norm: columns must be positive");
  if (call.rows > 0) gpu::launch(generic_norm_kernel, rows_grid(call.rows), kThreads, 0, call, native(stream));
}

std::size_t generic_norm_workspace(std::int64_t rows, std::int64_t columns) {
  return static_cast<std::size_t>(rows) * sizeof(Statistics) +
         static_cast<std::size_t>(partials_of(rows) * 2 * columns) * sizeof(float);
}

void generic_norm_gradient(const GenericNormGradient& call, Stream stream) {
  require(call.columns > 0 && call.norm != Norm::center, "generic_norm_gradient: no such norm, or no columns");
  require(call.workspace && call.dweight && (call.dbias || call.norm != Norm::layer),
          "generic_norm_gradient: workspace, dweight or dbias is null");
  auto* const statistics = static_cast<Statistics*>(call.workspace);
  const std::int64_t partials = partials_of(call.rows);
  const GradientParameters p{call, statistics, reinterpret_cast<float*>(statistics + call.rows),
                             divide_up(call.rows, partials), partials};
  const unsigned columns = elementwise_blocks(partials * call.columns);
  if (call.rows > 0) gpu::launch(generic_norm_statistics, rows_grid(call.rows), kThreads, 0, p, native(stream));
  gpu::launch(generic_norm_weights, dim3(columns), kElementwiseThreads, 0, p, native(stream));
  gpu::launch(generic_norm_weight_totals, dim3(elementwise_blocks(2 * call.columns)), kElementwiseThreads, 0, p,
              native(stream));
  if (call.rows > 0) gpu::launch(generic_norm_inputs, rows_grid(call.rows), kThreads, 0, p, native(stream));
}

}  // namespace longhaul::cuda
