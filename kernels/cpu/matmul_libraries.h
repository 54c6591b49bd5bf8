// Which library computes which matrix product of a run. Two libraries round differently, so the choice belongs to the
// run: it is made once, listed as text, and a resumed run takes the same.
#pragma once
#include <map>
#include <string>

#include "kernels/cpu/matmul.h"

namespace longhaul::cpu {

class MatmulLibraries {
 public:
  /// Of a product that is not decided yet:
  enum class Choice {
    first,     ///< the first library that takes it (matmul_choices)
    measured,  ///< the fastest that takes it. Small products are not measured; see smallest_measured
  };
  MatmulLibraries() = default;
  /// `only`: the library for all products that it takes, whatever was decided before; empty: `choice`.
  MatmulLibraries(Choice choice, std::string only) : choice_(choice), only_(std::move(only)) {}

  /// The library for this product, from now on always the same.
  std::string choose(const MatmulProblem& problem, int threads);

  /// "tn 768x3072x1024 float32 -> float32 +c, 1 thread" -> "openblas", for every product seen or set.
  using Table = std::map<std::string, std::string>;
  const Table& decided() const { return decided_; }
  void decide(Table table) { decided_ = std::move(table); }

  /// How many products were measured, and the seconds that took.
  int measured() const { return measured_; }
  double seconds() const { return seconds_; }

  /// Multiply-adds below which the first library is as good as any, and a measurement mostly noise.
  static constexpr double smallest_measured = 5e7;
  /// Another library than the first is taken when the first takes this many times its time.
  static constexpr double worth_it = 1.03;

 private:
  std::string fastest(const MatmulProblem& problem, int threads);

  Choice choice_ = Choice::first;
  std::string only_;
  Table decided_;
  int measured_ = 0;
  double seconds_ = 0;
};

/// Throws Error, naming `key`, when this build's `library` does not multiply matrices of `type`.
void require_matmul_library(const std::string& library, DType type, const std::string& key);

}  // namespace longhaul::cpu
