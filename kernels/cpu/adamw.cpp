#include "kernels/cpu/adamw.h"

#include <cmath>

#include "kernels/cpu/support.h"

namespace longhaul::cpu {

void adamw(ThreadPool& pool, const AdamW& p, const VectorTable& table) {
  parallel_for(pool, p.count, 16384,
               [&](std::int64_t begin, std::int64_t end) { table.adamw[p.gradient_type](p, begin, end); });
}

namespace reference {
namespace {

template <typename P, typename G>
void adamw(const AdamW& p) {
  P *parameter = static_cast<P*>(p.parameter), *first = static_cast<P*>(p.m), *second = static_cast<P*>(p.v);
  const double rate = *p.learning_rate;
  const double correction1 = 1 - std::pow(p.beta1, *p.step), correction2 = 1 - std::pow(p.beta2, *p.step);
  for (std::int64_t i = 0; i < p.count; ++i) {
    const P g = convert<P>(static_cast<const G*>(p.gradient)[i]) * static_cast<P>(*p.coefficient);
    parameter[i] *= static_cast<P>(1 - rate * p.weight_decay);
    first[i] = static_cast<P>(p.beta1) * first[i] + static_cast<P>(1 - p.beta1) * g;
    second[i] = static_cast<P>(p.beta2) * second[i] + static_cast<P>(1 - p.beta2) * g * g;
    const P denominator = std::sqrt(second[i]) / static_cast<P>(std::sqrt(correction2)) + static_cast<P>(p.epsilon);
    parameter[i] -= static_cast<P>(rate / correction1) * first[i] / denominator;
    if (p.copy) p.copy[i] = convert<bfloat16>(parameter[i]);
  }
}

}  // namespace

void adamw(const AdamW& p) {
  dispatch_floating(p.gradient_type, [&](auto g) {
    p.type == DType::float64 ? adamw<double, decltype(g)>(p) : adamw<float, decltype(g)>(p);
  });
}

}  // namespace reference
}  // namespace longhaul::cpu
