#include "kernels/cpu/cross_entropy.h"

#include <cmath>

#include "kernels/cpu/support.h"

namespace longhaul::cpu {

namespace {
std::size_t losses_bytes(std::int64_t rows) {
  return round_to_line(static_cast<std::size_t>(rows) * sizeof(double));
}
/// A row of exponentials and the maxima of its blocks (fewer than one in 64 elements), for one thread.
std::size_t exponentials_bytes(DType type, std::int64_t v) {
  return partial_bytes(type, (v + 63) / 64 * 64 + (v + 63) / 64);
}
void store_loss(const CrossEntropy& p, std::int64_t row, double loss) {
  if (p.type == DType::float64)
    static_cast<double*>(p.losses)[row] = loss;
  else
    static_cast<float*>(p.losses)[row] = static_cast<float>(loss);
}
}  // namespace

std::size_t cross_entropy_scratch_bytes(DType type, std::int64_t rows, std::int64_t v, int threads) {
  return losses_bytes(rows) + static_cast<std::size_t>(threads) * exponentials_bytes(type, v);
}

void cross_entropy(ThreadPool& pool, const CrossEntropy& p, const VectorTable& table) {
  double* losses = p.loss_sum ? static_cast<double*>(p.scratch) : nullptr;
  char* exponentials = static_cast<char*>(p.scratch) + losses_bytes(p.rows);
  const std::int64_t step = rows_per_task(p.v);
  pool.run((p.rows + step - 1) / step, [&](std::int64_t task, int thread) {
    CrossEntropy one = p;
    one.exponentials = exponentials + static_cast<std::size_t>(thread) * exponentials_bytes(p.type, p.v);
    table.cross_entropy[p.type](one, task * step, std::min(p.rows, (task + 1) * step), losses);
  });
  if (!losses) return;
  double sum = 0;
  for (std::int64_t row = 0; row < p.rows; ++row) sum += losses[row];
  *p.loss_sum = sum;
  for (std::int64_t row = 0; p.losses && row < p.rows; ++row) store_loss(p, row, losses[row]);
}

namespace reference {
namespace {

template <typename T, typename O>
void cross_entropy(const CrossEntropy& p) {
  using A = accumulate_t<T>;
  const A factor = static_cast<A>(p.transform.logits_scale), cap = static_cast<A>(p.transform.soft_cap);
  double loss = 0;
  for (std::int64_t row = 0; row < p.rows; ++row) {
    const std::int64_t stride = p.stride ? p.stride : p.v;
    const T* raw = static_cast<const T*>(p.logits) + row * stride;
    O* gradient = p.dlogits ? static_cast<O*>(p.dlogits) + row * stride : nullptr;
    const std::int32_t label = p.labels[row];
    if (label < 0) {
      if (p.losses) store_loss(p, row, 0);
      for (std::int64_t i = 0; gradient && i < p.v; ++i) gradient[i] = convert<O>(A(0));
      continue;
    }
    const auto logit = [&](std::int64_t i) {
      const A z = factor * read(raw[i]);
      return cap > 0 ? cap * std::tanh(z / cap) : z;
    };
    A top = logit(0);
    for (std::int64_t i = 1; i < p.v; ++i) top = std::max(top, logit(i));
    A sum = 0;
    for (std::int64_t i = 0; i < p.v; ++i) sum += std::exp(logit(i) - top);
    const auto own = static_cast<double>(std::log(sum) - (logit(label) - top));
    loss += own;
    if (p.losses) store_loss(p, row, own);
    for (std::int64_t i = 0; gradient && i < p.v; ++i) {
      const A z = logit(i), probability = std::exp(z - top) / sum;
      const A slope = cap > 0 ? factor * (1 - z / cap * (z / cap)) : factor;
      gradient[i] = convert<O>(static_cast<A>(*p.scale) * (probability - A(i == label)) * slope);
    }
  }
  if (p.loss_sum) *p.loss_sum = loss;
}

}  // namespace

void cross_entropy(const CrossEntropy& p) {
  dispatch_floating(p.type, [&](auto t) {
    using T = decltype(t);
    p.gradient_type == p.type ? cross_entropy<T, T>(p) : cross_entropy<T, bfloat16>(p);
  });
}

}  // namespace reference
}  // namespace longhaul::cpu
