#include "kernels/cpu/matmul_libraries.h"

#include <time.h>

#include <algorithm>
#include <vector>

#include "kernels/cpu/support.h"

namespace longhaul::cpu {
namespace {

constexpr int rounds = 5;
/// Multiply-adds of what is timed: of larger products a part.
constexpr double largest_timed = 2e9;

double work(const MatmulProblem& p) {
  return static_cast<double>(p.batch * p.m) * static_cast<double>(p.n * p.k);
}

/// Half of the largest size, again and again: the product's shape matters, not how often its tiles repeat.
MatmulProblem part_of(MatmulProblem p) {
  while (p.batch > 1 && work(p) > largest_timed) p.batch /= 2;
  while (work(p) > largest_timed) {
    std::int64_t& largest = p.m >= p.n && p.m >= p.k ? p.m : p.n >= p.k ? p.n : p.k;
    largest /= 2;
  }
  p.lda = p.transpose_a ? p.m : p.k;
  p.ldb = p.transpose_b ? p.k : p.n;
  p.ldc = p.n;
  if (p.batch > 1) p.stride_a = p.m * p.k, p.stride_b = p.k * p.n, p.stride_c = p.m * p.n;
  return p;
}

/// On one thread its CPU time, which a neighbour on the core does not change; else wall time.
double now(int threads) {
  timespec time;
  clock_gettime(threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

/// A matrix of small numbers, on a cache line.
class Matrix {
 public:
  Matrix(DType type, std::int64_t count) : storage_(static_cast<std::size_t>(count) * size_of(type) + 64) {
    dispatch_floating(type, [&](auto t) {
      auto* elements = static_cast<decltype(t)*>(data());
      for (std::int64_t i = 0; i < count; ++i)
        elements[i] = convert<decltype(t)>(0.001f * static_cast<float>(i % 97 + 1));
    });
  }
  void* data() {
    const auto address = reinterpret_cast<std::uintptr_t>(storage_.data());
    return storage_.data() + (64 - address % 64) % 64;
  }

 private:
  std::vector<unsigned char> storage_;
};

std::vector<std::string> takers(const MatmulProblem& problem, int threads) {
  std::vector<std::string> names;
  std::string reason;
  for (const MatmulChoice& choice : matmul_choices())
    if (choice.make(problem, threads, reason)) names.push_back(choice.name);
  return names;
}

/// The first library that takes it, or `only` that one; "" when none does.
std::string first_taker(const MatmulProblem& problem, int threads, const std::string& only) {
  std::string reason;
  for (const MatmulChoice& choice : matmul_choices())
    if ((only.empty() || only == choice.name) && choice.make(problem, threads, reason)) return choice.name;
  return "";
}

}  // namespace

std::string MatmulLibraries::fastest(const MatmulProblem& whole, int threads) {
  std::vector<std::string> names = takers(whole, threads);
  if (names.size() > 1) names.pop_back();  // the plain loops, which take everything
  if (names.size() == 1 || work(whole) < smallest_measured) return names.front();
  const double begin = now(2);
  const MatmulProblem p = part_of(whole);
  Matrix a(p.a, p.batch * p.m * p.k), b(p.b, p.batch * p.k * p.n), c(p.c, p.batch * p.m * p.n), bias(p.bias_type, p.n);
  ThreadPool pool(threads);
  std::vector<Matmul> plans;
  std::size_t scratch_bytes = 0;
  for (const std::string& name : names) {
    plans.emplace_back(p, threads, name);
    scratch_bytes = std::max(scratch_bytes, plans.back().scratch_bytes());
  }
  Matrix scratch(DType::float32, static_cast<std::int64_t>(scratch_bytes / 4));
  std::vector<std::vector<double>> seconds(plans.size());
  for (int round = -1; round < rounds; ++round)  // the first only warms up
    for (std::size_t turn = 0; turn < plans.size(); ++turn) {
      const std::size_t who = (turn + static_cast<std::size_t>(round + 1)) % plans.size();
      const double start = now(threads);
      plans[who].run(pool, a.data(), b.data(), bias.data(), c.data(), scratch.data());
      if (round >= 0) seconds[who].push_back(now(threads) - start);
    }
  std::size_t best = 0;
  double best_ratio = worth_it;
  for (std::size_t who = 1; who < plans.size(); ++who) {
    std::vector<double> ratios;
    for (std::size_t i = 0; i < rounds; ++i) ratios.push_back(seconds[0][i] / seconds[who][i]);
    std::nth_element(ratios.begin(), ratios.begin() + rounds / 2, ratios.end());
    if (ratios[rounds / 2] > best_ratio) {
      best = who;
      best_ratio = ratios[rounds / 2];
    }
  }
  ++measured_;
  seconds_ += now(2) - begin;
  return names[best];
}

std::string MatmulLibraries::choose(const MatmulProblem& problem, int threads) {
  const std::string key = fmt::format("{}, {} thread{}", describe(problem), threads, threads == 1 ? "" : "s");
  const auto known = decided_.find(key);
  if (only_.empty() && known != decided_.end()) return known->second;
  std::string name;
  if (!only_.empty() || choice_ == Choice::first) {
    name = first_taker(problem, threads, only_);
    if (name.empty()) name = first_taker(problem, threads, "");
  } else {
    name = fastest(problem, threads);
  }
  decided_[key] = name;
  return name;
}

void require_matmul_library(const std::string& library, DType type, const std::string& key) {
  const MatmulProblem one{.m = 1, .n = 1, .k = 1, .lda = 1, .ldb = 1, .ldc = 1, .a = type, .b = type, .c = type};
  for (const MatmulChoice& choice : matmul_choices()) {
    std::string reason;
    if (library == choice.name && !choice.make(one, 1, reason))
      fail("{} is {}, which multiplies no {} matrices: {}; set it to auto", key, library, name_of(type), reason);
  }
}

}  // namespace longhaul::cpu
