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

template <typename P, typename M, typename G>
void adamw(const AdamW& p) {
  P* parameter = static_cast<P*>(p.parameter);
  M *first = static_cast<M*>(p.m), *second = static_cast<M*>(p.v);
  const double rate = *p.learning_rate;
  const double correction1 = 1 - std::pow(p.beta1, *p.step), correction2 = 1 - std::pow(p.beta2, *p.step);
  for (std::int64_t i = 0; i < p.count; ++i) {
    const P g = convert<P>(static_cast<const G*>(p.gradient)[i]) * static_cast<P>(*p.coefficient);
    parameter[i] *= static_cast<P>(1 - rate * p.weight_decay);
    const P m = static_cast<P>(p.beta1) * convert<P>(first[i]) + static_cast<P>(1 - p.beta1) * g;
    const P v = static_cast<P>(p.beta2) * convert<P>(second[i]) + static_cast<P>(1 - p.beta2) * g * g;
    first[i] = convert<M>(m);
    second[i] = convert<M>(v);
    const P denominator = std::sqrt(v) / static_cast<P>(std::sqrt(correction2)) + static_cast<P>(p.epsilon);
    parameter[i] -= static_cast<P>(rate / correction1) * m / denominator;
    if (p.copy) p.copy[i] = convert<bfloat16>(parameter[i]);
  }
}

}  // namespace

void adamw(const AdamW& p) {
  dispatch_floating(p.gradient_type, [&](auto g) {
    using G = decltype(g);
    if (p.type == DType::float64)
      adamw<double, double, G>(p);
    else if (p.moment_type == DType::bfloat16)
      adamw<float, bfloat16, G>(p);
    else
      adamw<float, float, G>(p);
  });
}

}  // namespace reference
}  // namespace longhaul::cpu
