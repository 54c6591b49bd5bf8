#include "kernels/cpu/einsum.h"

#include "kernels/cpu/support.h"

namespace longhaul::cpu::reference {
namespace {

// The sum over letters [letter, letters) at the given places.
template <typename T>
accumulate_t<T> contract(const Einsum& p, int letter, const T* a, const T* b) {
  if (letter == p.letters) return read(*a) * read(*b);
  accumulate_t<T> sum = 0;
  for (std::int64_t i = 0; i < p.size[letter]; ++i)
    sum += contract(p, letter + 1, a + i * p.a_stride[letter], b + i * p.b_stride[letter]);
  return sum;
}

template <typename T, typename R>
void run(const Einsum& p) {
  std::int64_t count = 1;
  for (int i = 0; i < p.result_letters; ++i) count *= p.size[i];
  for (std::int64_t r = 0; r < count; ++r) {
    std::int64_t rest = r, a = 0, b = 0;
    for (int i = p.result_letters; i-- > 0;) {
      a += rest % p.size[i] * p.a_stride[i];
      b += rest % p.size[i] * p.b_stride[i];
      rest /= p.size[i];
    }
    accumulate_t<T> sum = contract(p, p.result_letters, static_cast<const T*>(p.a) + a, static_cast<const T*>(p.b) + b);
    if (p.addend) sum += static_cast<accumulate_t<T>>(read(static_cast<const R*>(p.addend)[r]));
    static_cast<R*>(p.result)[r] = convert<R>(sum);
  }
}

}  // namespace

void einsum(const Einsum& problem) {
  dispatch_floating(problem.type, [&](auto t) {
    dispatch_floating(problem.result_type, [&](auto r) { run<decltype(t), decltype(r)>(problem); });
  });
}

}  // namespace longhaul::cpu::reference
