// The vendor's matrix products, as programs ask for them: errors in double on rows and columns all over the result.
#include <algorithm>
#include <cmath>

#include "kernels/cuda/bench/values.h"

namespace longhaul::cuda::bench {
namespace {

// c [m, n] = a [m, k] b, of which b is stored as [n, k] (weights forward), or with transposed=0 as [k, n] (backward).
Measurement matmul(Context& context, const Shape& shape) {
  const std::int64_t m = shape.number("m"), n = shape.number("n"), k = shape.number("k");
  const bool transposed = shape.number("transposed") != 0;
  const Type type = type_of(shape);
  const Values a(context, type, m * k, 1), b(context, type, n * k, 2);
  const Room c(context, type, m * n);
  Matmul call{};
  call.m = m, call.n = n, call.k = k;
  call.b_transposed = transposed;
  call.type = call.out_type = type;
  call.alpha = 1;
  call.a = a.device, call.b = b.device, call.c = c.device;
  call.a_stride = k, call.b_stride = transposed ? k : n, call.c_stride = n;
  Measurement result = measured(context, call, &Api::matmul, 0, bound_of(type));
  result.flops = 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
  result.bytes = bytes_of(type) * static_cast<double>(m * k + n * k + m * n);
  const std::vector<double> got = download(context, type, c.device, c.count);
  double difference = 0, norm = 1e-300;
  for (std::int64_t i = 0; i < std::min<std::int64_t>(m * n, 2000); i++) {
    const std::int64_t row = i * 7919 % m, column = i * 104729 % n;
    double want = 0;
    for (std::int64_t j = 0; j < k; j++)
      want += static_cast<double>(a.host[static_cast<std::size_t>(row * k + j)]) *
              b.host[static_cast<std::size_t>(transposed ? column * k + j : j * n + column)];
    const double apart = got[static_cast<std::size_t>(row * n + column)] - want;
    difference += apart * apart, norm += want * want;
  }
  for (const double value : got)
    if (!std::isfinite(value)) difference = INFINITY;  // of those that were not looked at
  result.error = std::isfinite(difference) ? std::sqrt(difference / norm) : INFINITY;
  return result;
}

}  // namespace

std::vector<Op> matmul_ops() {
  // Of Qwen2.5-1.5B's MLP, and a large square one.
  return {
      {"matmul",
       {"matmul"},
       {"m=8192,n=8960,k=1536", "m=8192,n=1536,k=8960", "m=8192,n=1536,k=8960,transposed=0", "m=8192,n=8192,k=8192"},
       {"m=20,n=31,k=50,transposed=1,dtype=bfloat16", "transposed=0", "dtype=float32"},
       matmul}};
}

}  // namespace longhaul::cuda::bench
