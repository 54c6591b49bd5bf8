#include "kernels/cpu/einsum.h"

#include "kernels/cpu/support.h"

namespace longhaul::cpu::reference {
namespace {

// Neighbouring results (along the last result letter) that are summed together: each still adds its products in
// ascending order, but their chains of additions overlap, and where b is contiguous they are one vector.
constexpr std::int64_t tile = 32;

// Adds the products over letters [letter, letters) at the given places to sums[0, count).
template <typename T>
void contract(const Einsum& p, int letter, const T* a, const T* b, std::int64_t count, std::int64_t a_step,
              std::int64_t b_step, accumulate_t<T>* sums) {
  if (letter < p.letters) {
    for (std::int64_t i = 0; i < p.size[letter]; ++i)
      contract(p, letter + 1, a + i * p.a_stride[letter], b + i * p.b_stride[letter], count, a_step, b_step, sums);
  } else if (a_step == 0 && b_step == 1) {
    const accumulate_t<T> factor = read(*a);
    for (std::int64_t j = 0; j < count; ++j) sums[j] += factor * read(b[j]);
  } else {
    for (std::int64_t j = 0; j < count; ++j) sums[j] += read(a[j * a_step]) * read(b[j * b_step]);
  }
}

template <typename T, typename R>
void run(const Einsum& p) {
  const int last = p.result_letters - 1;
  const std::int64_t width = last < 0 ? 1 : p.size[last], a_step = last < 0 ? 0 : p.a_stride[last],
                     b_step = last < 0 ? 0 : p.b_stride[last];
  std::int64_t rows = 1;
  for (int i = 0; i < last; ++i) rows *= p.size[i];
  for (std::int64_t row = 0; row < rows; ++row) {
    std::int64_t rest = row, a = 0, b = 0;
    for (int i = last; i-- > 0;) {
      a += rest % p.size[i] * p.a_stride[i];
      b += rest % p.size[i] * p.b_stride[i];
      rest /= p.size[i];
    }
    for (std::int64_t begin = 0; begin < width; begin += tile) {
      const std::int64_t count = std::min(tile, width - begin), r = row * width + begin;
      accumulate_t<T> sums[tile] = {};
      contract(p, last + 1, static_cast<const T*>(p.a) + a + begin * a_step,
               static_cast<const T*>(p.b) + b + begin * b_step, count, a_step, b_step, sums);
      for (std::int64_t j = 0; j < count; ++j) {
        if (p.addend) sums[j] += static_cast<accumulate_t<T>>(read(static_cast<const R*>(p.addend)[r + j]));
        static_cast<R*>(p.result)[r + j] = convert<R>(sums[j]);
      }
    }
  }
}

}  // namespace

void einsum(const Einsum& problem) {
  dispatch_floating(problem.type, [&](auto t) {
    dispatch_floating(problem.result_type, [&](auto r) { run<decltype(t), decltype(r)>(problem); });
  });
}

}  // namespace longhaul::cpu::reference
