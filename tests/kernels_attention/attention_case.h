// Random attention problems for the tests: index arrays of many kinds, data in a storage type, and runs of an
// implementation on poisoned outputs and scratch.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <ostream>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#include "kernels/cpu/attention.h"
#include "kernels/cpu/thread_pool.h"

namespace attention_test {

using namespace longhaul;
using namespace longhaul::cpu;

enum class Order {
  natural,   // 0, 1, 2, ...
  zigzag,    // pieces from both ends in turn
  shuffled,  // any permutation
  ring,      // keys of an earlier and queries of a later part of a longer sequence, overlapping
  blind      // some queries come before every key and see none
};
enum class Documents { one, random, own };  // own: every token is a document (padding)

struct Shape {
  std::int64_t batch, queries, keys, heads, kv_heads, head_dim, window;
  Order order;
  Documents documents;
  double soft_cap = 0;
};
inline std::ostream& operator<<(std::ostream& out, const Shape& s) {
  return out << "batch " << s.batch << " queries " << s.queries << " keys " << s.keys << " heads " << s.heads << ":"
             << s.kv_heads << " head_dim " << s.head_dim << " window " << s.window << " order "
             << static_cast<int>(s.order) << " documents " << static_cast<int>(s.documents) << " soft cap "
             << s.soft_cap;
}

/// Index arrays and the problem that points to them.
struct Problem {
  Shape shape;
  std::vector<std::int32_t> query_index, key_index, key_start;
  AttentionProblem problem;

  explicit Problem(const Shape& s, unsigned seed = 1) : shape(s) {
    std::mt19937 random(seed);
    for (std::int64_t b = 0; b < s.batch; ++b) {
      std::vector<std::int32_t> q(static_cast<std::size_t>(s.queries)), k(static_cast<std::size_t>(s.keys));
      fill(q, s.order, s.order == Order::ring ? static_cast<std::int32_t>(s.keys / 2) : 0, random);
      fill(k, s.order, s.order == Order::blind ? static_cast<std::int32_t>(s.queries / 3) : 0, random);
      // Where documents begin, by index.
      const std::int32_t length = static_cast<std::int32_t>(s.queries + s.keys + 1);
      std::vector<std::int32_t> start(static_cast<std::size_t>(length));
      for (std::int32_t i = 1; i < length; ++i) {
        const bool begins = s.documents == Documents::own || (s.documents == Documents::random && random() % 40 == 0);
        start[static_cast<std::size_t>(i)] = begins ? i : start[static_cast<std::size_t>(i) - 1];
      }
      for (std::int32_t i : q) key_start.push_back(start[static_cast<std::size_t>(i)]);
      query_index.insert(query_index.end(), q.begin(), q.end());
      key_index.insert(key_index.end(), k.begin(), k.end());
    }
    problem = {.batch = s.batch,
               .queries = s.queries,
               .keys = s.keys,
               .heads = s.heads,
               .kv_heads = s.kv_heads,
               .head_dim = s.head_dim,
               .window = s.window,
               .scale = 1 / std::sqrt(static_cast<double>(s.head_dim)),
               .soft_cap = s.soft_cap,
               .query_index = query_index.data(),
               .key_index = key_index.data(),
               .key_start = key_start.data()};
  }
  Problem(const Problem&) = delete;

  std::size_t query_elements() const {
    return static_cast<std::size_t>(shape.batch * shape.queries * shape.heads * shape.head_dim);
  }
  std::size_t key_elements() const {
    return static_cast<std::size_t>(shape.batch * shape.keys * shape.kv_heads * shape.head_dim);
  }
  std::size_t rows() const { return static_cast<std::size_t>(shape.batch * shape.queries * shape.heads); }

 private:
  static void fill(std::vector<std::int32_t>& index, Order order, std::int32_t offset, std::mt19937& random) {
    const std::size_t n = index.size();
    for (std::size_t i = 0; i < n; ++i) index[i] = static_cast<std::int32_t>(i) + offset;
    if (order == Order::shuffled || order == Order::blind) std::shuffle(index.begin(), index.end(), random);
    if (order == Order::zigzag)
      for (std::size_t i = 0; i < n; ++i)
        index[i] = static_cast<std::int32_t>(i / 25 % 2 ? n - 1 - (i / 50 * 25 + i % 25) : i / 50 * 25 + i % 25);
  }
};

template <typename T>
constexpr DType dtype_of = std::is_same_v<T, double>  ? DType::float64
                           : std::is_same_v<T, float> ? DType::float32
                                                      : DType::bfloat16;

template <typename To, typename From>
To cast(From x) {
  if constexpr (std::is_same_v<From, bfloat16>)
    return cast<To>(static_cast<float>(x));
  else if constexpr (std::is_same_v<To, bfloat16>)
    return bfloat16(static_cast<float>(x));
  else
    return static_cast<To>(x);
}
template <typename To, typename From>
std::vector<To> cast_all(const std::vector<From>& from) {
  std::vector<To> to;
  to.reserve(from.size());
  for (const From& x : from) to.push_back(cast<To>(x));
  return to;
}

/// All bits set: a NaN in every type.
template <typename T>
std::vector<T> poisoned(std::size_t n) {
  std::vector<T> v(n);
  if (n) std::memset(static_cast<void*>(v.data()), 0xff, n * sizeof(T));
  return v;
}
/// 64-byte aligned memory of exactly that size, poisoned.
struct Scratch {
  std::unique_ptr<void, void (*)(void*)> memory{nullptr, std::free};
  explicit Scratch(std::size_t bytes) {
    if (bytes == 0) return;
    memory.reset(std::aligned_alloc(64, bytes));
    std::memset(memory.get(), 0xff, bytes);
  }
};

template <typename T>
struct Inputs {
  std::vector<T> q, k, v, dout;
  explicit Inputs(const Problem& p, unsigned seed = 7)
      : q(p.query_elements()), k(p.key_elements()), v(p.key_elements()), dout(p.query_elements()) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    for (auto* array : {&q, &k, &v, &dout})
      for (T& x : *array) x = cast<T>(normal(random));
  }
  template <typename From>
  explicit Inputs(const Inputs<From>& from)
      : q(cast_all<T>(from.q)), k(cast_all<T>(from.k)), v(cast_all<T>(from.v)), dout(cast_all<T>(from.dout)) {}
};

/// What forward gives; Out is T or float.
template <typename T, typename Out = T>
struct Forward {
  std::vector<Out> out;
  std::vector<accumulate_t<T>> log_sum_exp;
  /// [batch, queries, heads]: sum over head_dim of out * dout, by its definition.
  std::vector<accumulate_t<T>> delta(const std::vector<T>& dout, std::int64_t head_dim) const {
    std::vector<accumulate_t<T>> sums(log_sum_exp.size(), 0);
    for (std::size_t i = 0; i < out.size(); ++i)
      sums[i / static_cast<std::size_t>(head_dim)] += cast<accumulate_t<T>>(out[i]) * cast<accumulate_t<T>>(dout[i]);
    return sums;
  }
  Forward() = default;
  Forward(const AttentionImplementation& implementation, const Problem& p, const Inputs<T>& in, ThreadPool& pool)
      : out(poisoned<Out>(p.query_elements())), log_sum_exp(poisoned<accumulate_t<T>>(p.rows())) {
    const Scratch scratch(implementation.forward_scratch_bytes(p.problem, dtype_of<T>, pool.threads()));
    implementation.forward(p.problem,
                           {.dtype = dtype_of<T>,
                            .q = in.q.data(),
                            .k = in.k.data(),
                            .v = in.v.data(),
                            .out_dtype = dtype_of<Out>,
                            .out = out.data(),
                            .log_sum_exp = log_sum_exp.data()},
                           pool, scratch.memory.get());
  }
};

/// What backward gives, from a forward result; gradients of type Gradient (T or float).
template <typename T, typename Gradient = T>
struct Backward {
  std::vector<Gradient> dq, dk, dv;
  /// With `addend`, gradients are added to that value.
  template <typename Out>
  Backward(const AttentionImplementation& implementation, const Problem& p, const Inputs<T>& in,
           const Forward<T, Out>& forward, ThreadPool& pool, const double* addend = nullptr)
      : dq(poisoned<Gradient>(p.query_elements())),
        dk(poisoned<Gradient>(p.key_elements())),
        dv(poisoned<Gradient>(p.key_elements())) {
    if (addend)
      for (auto* array : {&dq, &dk, &dv}) array->assign(array->size(), cast<Gradient>(*addend));
    const auto delta = forward.delta(in.dout, p.shape.head_dim);
    const Scratch scratch(
        implementation.backward_scratch_bytes(p.problem, dtype_of<T>, dtype_of<Gradient>, pool.threads()));
    implementation.backward(p.problem,
                            {.dtype = dtype_of<T>,
                             .q = in.q.data(),
                             .k = in.k.data(),
                             .v = in.v.data(),
                             .delta = delta.data(),
                             .log_sum_exp = forward.log_sum_exp.data(),
                             .dout = in.dout.data(),
                             .dq_dtype = dtype_of<Gradient>,
                             .dq = dq.data(),
                             .accumulate_dq = addend != nullptr,
                             .dkv_dtype = dtype_of<Gradient>,
                             .dk = dk.data(),
                             .dv = dv.data(),
                             .accumulate_dkv = addend != nullptr},
                            pool, scratch.memory.get());
  }
};

/// |a - b| / max(|b|, floor sqrt(n)) in the 2-norm; infinite where a is not finite. Infinities of b must be met by
/// equal ones. `floor`: the size of what cancelled, where b is zero by symmetry.
template <typename A, typename B>
double error(const std::vector<A>& a, const std::vector<B>& b, double floor = 0) {
  double difference = 0, norm = static_cast<double>(b.size()) * floor * floor;
  double own = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double x = cast<double>(a[i]), y = cast<double>(b[i]);
    if (std::isinf(y) && x == y) continue;
    if (!std::isfinite(x)) return INFINITY;
    difference += (x - y) * (x - y);
    own += y * y;
  }
  norm = std::max(norm, own);
  return difference == 0 ? 0 : std::sqrt(difference / std::max(norm, 1e-300));
}

template <typename T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

inline const AttentionImplementation& implementation(std::string_view name) {
  for (const auto& one : attention_implementations())
    if (one.name == name) return one;
  throw std::logic_error("no implementation " + std::string(name));
}

}  // namespace attention_test
