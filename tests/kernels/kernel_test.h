// What the kernels' tests share: typed tensors with poisoned outputs and guards, and the comparison of a fast kernel on
// every instruction set and number of threads with the float64 reference.
#pragma once
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <vector>

#include "base/dtype.h"
#include "kernels/cpu/support.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/cpu/vector_table.h"

namespace longhaul::cpu::test {

/// A typed array, aligned to 64 bytes, filled with NaN and followed by guard bytes that nobody may touch.
class Tensor {
 public:
  Tensor(DType type, std::int64_t count)
      : type_(type), count_(count), storage_(bytes() + guard + 64, static_cast<unsigned char>(0xff)) {}
  Tensor(const Tensor& other) : Tensor(other.type_, other.count_) { std::memcpy(data(), other.data(), bytes()); }
  Tensor(Tensor&&) = default;
  void* data() { return aligned(); }
  const void* data() const { return const_cast<Tensor*>(this)->aligned(); }
  DType type() const { return type_; }
  std::int64_t count() const { return count_; }
  std::size_t bytes() const { return static_cast<std::size_t>(count_) * size_of(type_); }

  double at(std::int64_t i) const {
    return dispatch_floating(type_,
                             [&](auto t) { return convert<double>(static_cast<const decltype(t)*>(data())[i]); });
  }
  void set(std::int64_t i, double value) {
    dispatch_floating(type_, [&](auto t) {
      static_cast<decltype(t)*>(data())[i] = convert<decltype(t)>(value);
      return 0;
    });
  }
  bool guard_is_whole() const {
    const auto* end = static_cast<const unsigned char*>(data()) + bytes();
    for (std::size_t i = 0; i < guard; ++i)
      if (end[i] != 0xff) return false;
    return true;
  }
  bool same_bits(const Tensor& other) const { return std::memcmp(data(), other.data(), bytes()) == 0; }

 private:
  static constexpr std::size_t guard = 64;
  unsigned char* aligned() {
    const auto address = reinterpret_cast<std::uintptr_t>(storage_.data());
    return storage_.data() + (64 - address % 64) % 64;
  }
  DType type_;
  std::int64_t count_;
  std::vector<unsigned char> storage_;
};

/// How a problem runs: with which kernels, and in which type its floating operands are held.
struct Run {
  ThreadPool* pool = nullptr;          ///< null: the reference kernels
  const VectorTable* table = nullptr;  ///< of the fast kernels
  DType storage = DType::float64;      ///< inputs are rounded to this type, so that all runs see the same numbers
  bool exact = false;                  ///< everything in float64: the expected result
  DType type() const { return exact ? DType::float64 : storage; }
  DType typed(DType wanted) const { return exact ? DType::float64 : wanted; }
  bool reference() const { return pool == nullptr; }

  /// Nearly normal inputs of the activations' type.
  Tensor random(std::int64_t count, unsigned seed, double size = 1, double mean = 0) const {
    return random_typed(storage, count, seed, size, mean);
  }
  Tensor random_typed(DType of, std::int64_t count, unsigned seed, double size = 1, double mean = 0) const {
    std::minstd_rand generator(seed + 1);
    const auto normal = [&] {  // six uniform numbers, near enough
      double sum = -3;
      for (int i = 0; i < 6; ++i) sum += static_cast<double>(generator()) / 2147483647.0;
      return mean + size * 1.41421356 * sum;
    };
    Tensor rounded(of, 1), result(typed(of), count);
    for (std::int64_t i = 0; i < count; ++i) {
      rounded.set(0, normal());
      result.set(i, rounded.at(0));
    }
    return result;
  }
  Tensor output(std::int64_t count) const { return Tensor(type(), count); }
  Tensor output(DType of, std::int64_t count) const { return Tensor(typed(of), count); }
};

/// Scratch of exactly the stated size, filled with NaN.
inline Tensor scratch(std::size_t bytes) {
  REQUIRE(bytes % 64 == 0);
  return Tensor(DType::bfloat16, static_cast<std::int64_t>(bytes / 2));
}

/// max |a - b| / max |b|; infinite when a is not finite somewhere.
inline double error_of(const Tensor& a, const Tensor& b) {
  double worst = 0, largest = 0;
  for (std::int64_t i = 0; i < b.count(); ++i) {
    if (!std::isfinite(a.at(i))) return INFINITY;
    worst = std::max(worst, std::abs(a.at(i) - b.at(i)));
    largest = std::max(largest, std::abs(b.at(i)));
  }
  return worst == 0 ? 0 : worst / largest;
}

inline std::vector<const VectorTable*> all_tables() {
  std::vector<const VectorTable*> tables;
  for (const char* name : {"avx512bf16", "avx512", "avx2", "generic"})
    if (const VectorTable* table = vector_table(name)) tables.push_back(table);
  return tables;
}

using Problem = std::function<std::vector<Tensor>(const Run&)>;

/// Runs `problem` with every storage type by the reference and by the fast kernels of every instruction set, compares
/// with the float64 reference, and requires 1, 2 and 3 threads to agree bit for bit. `tolerance` is in units of the
/// roundoff of each output's type (at least float32's roundoff for bfloat16 runs' float32 outputs).
inline void check_kernel(const Problem& problem, double tolerance) {
  static ThreadPool one(1), two(2), three(3);
  for (DType storage : {DType::float64, DType::float32, DType::bfloat16}) {
    Run exact{.storage = storage, .exact = true};
    const std::vector<Tensor> expected = problem(exact);
    const auto compare = [&](const std::vector<Tensor>& actual) {
      REQUIRE(actual.size() == expected.size());
      for (std::size_t i = 0; i < actual.size(); ++i) {
        const double roundoff =
            std::max(unit_roundoff(actual[i].type()), storage == DType::float64 ? 0 : unit_roundoff(DType::float32));
        INFO("output " << i << " of type " << name_of(actual[i].type()));
        CHECK(actual[i].guard_is_whole());
        CHECK(error_of(actual[i], expected[i]) <= tolerance * roundoff);
      }
    };
    {
      INFO("reference, storage " << name_of(storage));
      compare(problem(Run{.storage = storage}));
    }
    for (const VectorTable* table : all_tables()) {
      INFO(table->name << ", storage " << name_of(storage));
      const std::vector<Tensor> actual = problem(Run{.pool = &one, .table = table, .storage = storage});
      compare(actual);
      for (ThreadPool* pool : {&two, &three}) {
        INFO(pool->threads() << " threads");
        const std::vector<Tensor> again = problem(Run{.pool = pool, .table = table, .storage = storage});
        for (std::size_t i = 0; i < actual.size(); ++i) CHECK(again[i].same_bits(actual[i]));
      }
    }
  }
}

/// sum of c * y for fixed random c: a loss whose gradient by y is c.
inline Tensor upper_gradient(std::int64_t count, unsigned seed = 99) {
  return Run{}.random(count, seed);
}
inline double weighted(const Tensor& y, const Tensor& c) {
  double sum = 0;
  for (std::int64_t i = 0; i < y.count(); ++i) sum += y.at(i) * c.at(i);
  return sum;
}
/// Compares `gradient` with central differences of `loss` by each element of `input` (float64).
inline void check_gradient(Tensor& input, const Tensor& gradient, const std::function<double()>& loss,
                           double tolerance = 2e-8) {
  REQUIRE(input.count() == gradient.count());
  Tensor numeric(DType::float64, input.count());
  for (std::int64_t i = 0; i < input.count(); ++i) {
    const double value = input.at(i), step = 1e-5 * std::max(1.0, std::abs(value));
    input.set(i, value + step);
    const double above = loss();
    input.set(i, value - step);
    const double below = loss();
    input.set(i, value);
    numeric.set(i, (above - below) / (2 * step));
  }
  CHECK(error_of(gradient, numeric) < tolerance);
  double size = 0;
  for (std::int64_t i = 0; i < gradient.count(); ++i) size += std::abs(gradient.at(i));
  CHECK(size > 0);
}

}  // namespace longhaul::cpu::test
