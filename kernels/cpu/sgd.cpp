#include "kernels/cpu/sgd.h"

#include "kernels/cpu/support.h"

namespace longhaul::cpu {
namespace {

template <typename P, typename M, typename G>
void step(const Sgd& p, std::int64_t begin, std::int64_t end) {
  P* parameter = static_cast<P*>(p.parameter);
  M* moment = static_cast<M*>(p.m);
  const G* gradient = static_cast<const G*>(p.gradient);
  const P coefficient = static_cast<P>(*p.coefficient), rate = static_cast<P>(*p.learning_rate),
          decay = static_cast<P>(p.weight_decay), momentum = static_cast<P>(p.momentum);
  const P ahead = p.nesterov ? momentum : P(1), own = p.nesterov ? P(1) : P(0);
  for (std::int64_t i = begin; i < end; ++i) {
    P g = convert<P>(gradient[i]) * coefficient + decay * parameter[i];
    if (moment) {
      const P sum = momentum * convert<P>(moment[i]) + g;
      moment[i] = convert<M>(sum);
      g = own * g + ahead * sum;
    }
    parameter[i] -= rate * g;
  }
}

using Range = void (*)(const Sgd&, std::int64_t, std::int64_t);

Range range_of(const Sgd& p) {
  Range range = nullptr;
  dispatch_floating(p.gradient_type, [&](auto g) {
    using G = decltype(g);
    range = p.type == DType::float64           ? &step<double, double, G>
            : p.moment_type == DType::bfloat16 ? &step<float, bfloat16, G>
                                               : &step<float, float, G>;
  });
  return range;
}

}  // namespace

void sgd(ThreadPool& pool, const Sgd& p) {
  const Range range = range_of(p);
  parallel_for(pool, p.count, 16384, [&](std::int64_t begin, std::int64_t end) { range(p, begin, end); });
}

namespace reference {
void sgd(const Sgd& p) {
  range_of(p)(p, 0, p.count);
}
}  // namespace reference

}  // namespace longhaul::cpu
