#include "kernels/cpu/muon.h"

#include <cmath>
#include <vector>

#include "kernels/cpu/support.h"

namespace longhaul::cpu {
namespace {

constexpr double a = 3.4445, b = -4.775, c = 2.0315, least_norm = 1e-7;
constexpr int iterations = 5;

template <typename P, typename M, typename G>
void momentum_range(const MuonMomentum& p, std::int64_t begin, std::int64_t end) {
  M* moment = static_cast<M*>(p.m);
  P* update = static_cast<P*>(p.update);
  const G* gradient = static_cast<const G*>(p.gradient);
  const P coefficient = static_cast<P>(*p.coefficient), keep = static_cast<P>(p.momentum),
          rest = static_cast<P>(1 - p.momentum);
  for (std::int64_t i = begin; i < end; ++i) {
    const P g = convert<P>(gradient[i]) * coefficient;
    const P sum = keep * convert<P>(moment[i]) + rest * g;
    moment[i] = convert<M>(sum);
    update[i] = p.nesterov ? rest * g + keep * sum : sum;
  }
}

void run_momentum(const MuonMomentum& p, std::int64_t begin, std::int64_t end) {
  dispatch_floating(p.gradient_type, [&](auto g) {
    using G = decltype(g);
    if (p.type == DType::float64)
      momentum_range<double, double, G>(p, begin, end);
    else if (p.moment_type == DType::bfloat16)
      momentum_range<float, bfloat16, G>(p, begin, end);
    else
      momentum_range<float, float, G>(p, begin, end);
  });
}

template <typename P>
void step_range(const MuonStep& p, std::int64_t begin, std::int64_t end) {
  P* parameter = static_cast<P*>(p.parameter);
  const P* update = static_cast<const P*>(p.update);
  const P decay = static_cast<P>(1 - *p.learning_rate * p.weight_decay),
          size = static_cast<P>(*p.learning_rate * p.scale);
  for (std::int64_t i = begin; i < end; ++i) parameter[i] = parameter[i] * decay - size * update[i];
}

void run_step(const MuonStep& p, std::int64_t begin, std::int64_t end) {
  p.type == DType::float64 ? step_range<double>(p, begin, end) : step_range<float>(p, begin, end);
}

// In one order whatever the threads.
template <typename T>
T inverse_norm(const T* x, std::int64_t count) {
  double sum = 0;
  for (std::int64_t i = 0; i < count; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return static_cast<T>(1 / std::max(std::sqrt(sum), least_norm));
}

MatmulProblem problem(DType type, std::int64_t m, std::int64_t n, std::int64_t k, bool transpose_a, bool transpose_b) {
  MatmulProblem p{};
  p.transpose_a = transpose_a;
  p.transpose_b = transpose_b;
  p.m = m;
  p.n = n;
  p.k = k;
  p.lda = transpose_a ? m : k;
  p.ldb = transpose_b ? k : n;
  p.ldc = n;
  p.a = p.b = p.c = type;
  return p;
}

}  // namespace

void muon_momentum(ThreadPool& pool, const MuonMomentum& p) {
  parallel_for(pool, p.count, 16384, [&](std::int64_t begin, std::int64_t end) { run_momentum(p, begin, end); });
}

void muon_step(ThreadPool& pool, const MuonStep& p) {
  parallel_for(pool, p.count, 16384, [&](std::int64_t begin, std::int64_t end) { run_step(p, begin, end); });
}

Orthogonalizer::Orthogonalizer(DType type, std::int64_t rows, std::int64_t columns, int threads,
                               MatmulLibraries* libraries)
    : type_(type),
      rows_(rows),
      columns_(columns),
      least_(std::min(rows, columns)),
      gram_(rows > columns ? problem(type, columns, columns, rows, true, false)
                           : problem(type, rows, rows, columns, false, true),
            threads, "", libraries),
      square_(problem(type, least_, least_, least_, false, false), threads, "", libraries),
      product_(rows > columns ? problem(type, rows, columns, columns, false, false)
                              : problem(type, rows, columns, rows, false, false),
               threads, "", libraries) {}

std::size_t Orthogonalizer::scratch_bytes() const {
  const std::size_t size = size_of(type_);
  return round_to_line(static_cast<std::size_t>(rows_ * columns_) * size) +
         2 * round_to_line(static_cast<std::size_t>(least_ * least_) * size) +
         std::max({gram_.scratch_bytes(), square_.scratch_bytes(), product_.scratch_bytes()});
}

template <typename T>
void Orthogonalizer::iterate(ThreadPool& pool, const T* x, T* y, char* scratch) {
  const std::int64_t count = rows_ * columns_, squares = least_ * least_;
  const auto take = [&](std::int64_t elements) {
    char* here = scratch;
    scratch += round_to_line(static_cast<std::size_t>(elements) * sizeof(T));
    return reinterpret_cast<T*>(here);
  };
  T *from = take(count), *gram = take(squares), *square = take(squares), *to = y;
  const T factor = inverse_norm(x, count);
  const auto each = [&](std::int64_t elements, auto&& body) {
    parallel_for(pool, elements, 16384, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) body(i);
    });
  };
  each(count, [&](std::int64_t i) { from[i] = x[i] * factor; });
  static_assert(iterations % 2 == 1);  // so that the last one writes y
  for (int i = 0; i < iterations; ++i) {
    gram_.run(pool, from, from, nullptr, gram, scratch);
    square_.run(pool, gram, gram, nullptr, square, scratch);
    each(squares, [&](std::int64_t k) { square[k] = static_cast<T>(b) * gram[k] + static_cast<T>(c) * square[k]; });
    if (rows_ > columns_)
      product_.run(pool, from, square, nullptr, to, scratch);
    else
      product_.run(pool, square, from, nullptr, to, scratch);
    each(count, [&](std::int64_t k) { to[k] += static_cast<T>(a) * from[k]; });
    std::swap(from, to);
  }
}

void Orthogonalizer::run(ThreadPool& pool, const void* x, void* y, void* scratch) {
  if (type_ == DType::float64)
    iterate(pool, static_cast<const double*>(x), static_cast<double*>(y), static_cast<char*>(scratch));
  else
    iterate(pool, static_cast<const float*>(x), static_cast<float*>(y), static_cast<char*>(scratch));
}

namespace reference {
namespace {

template <typename T>
void orthogonal(const Orthogonalize& p) {
  // As rows x columns with rows the smaller side: X or its transpose.
  const bool tall = p.rows > p.columns;
  const std::int64_t rows = std::min(p.rows, p.columns), columns = std::max(p.rows, p.columns);
  const T* x = static_cast<const T*>(p.x);
  T* y = static_cast<T*>(p.y);
  const T factor = inverse_norm(x, rows * columns);
  const auto place = [&](std::int64_t i, std::int64_t j) {
    return static_cast<std::size_t>(tall ? j * rows + i : i * columns + j);
  };
  const auto at = [&](std::int64_t i, std::int64_t j) { return static_cast<std::size_t>(i * columns + j); };
  const auto square_at = [&](std::int64_t i, std::int64_t j) { return static_cast<std::size_t>(i * rows + j); };
  std::vector<T> from(at(rows, 0)), to(from.size()), gram(square_at(rows, 0)), square(gram.size());
  for (std::int64_t i = 0; i < rows; ++i)
    for (std::int64_t j = 0; j < columns; ++j) from[at(i, j)] = x[place(i, j)] * factor;
  for (int iteration = 0; iteration < iterations; ++iteration) {
    for (std::int64_t i = 0; i < rows; ++i)
      for (std::int64_t j = 0; j < rows; ++j) {
        T sum = 0;
        for (std::int64_t k = 0; k < columns; ++k) sum += from[at(i, k)] * from[at(j, k)];
        gram[square_at(i, j)] = sum;
      }
    for (std::int64_t i = 0; i < rows; ++i)
      for (std::int64_t j = 0; j < rows; ++j) {
        T sum = 0;
        for (std::int64_t k = 0; k < rows; ++k) sum += gram[square_at(i, k)] * gram[square_at(k, j)];
        square[square_at(i, j)] = static_cast<T>(b) * gram[square_at(i, j)] + static_cast<T>(c) * sum;
      }
    for (std::int64_t i = 0; i < rows; ++i)
      for (std::int64_t j = 0; j < columns; ++j) {
        T sum = static_cast<T>(a) * from[at(i, j)];
        for (std::int64_t k = 0; k < rows; ++k) sum += square[square_at(i, k)] * from[at(k, j)];
        to[at(i, j)] = sum;
      }
    std::swap(from, to);
  }
  for (std::int64_t i = 0; i < rows; ++i)
    for (std::int64_t j = 0; j < columns; ++j) y[place(i, j)] = from[at(i, j)];
}

}  // namespace

void muon_momentum(const MuonMomentum& p) {
  run_momentum(p, 0, p.count);
}
void muon_step(const MuonStep& p) {
  run_step(p, 0, p.count);
}
void orthogonalize(const Orthogonalize& p) {
  p.type == DType::float64 ? orthogonal<double>(p) : orthogonal<float>(p);
}

}  // namespace reference
}  // namespace longhaul::cpu
