// einsum as one matrix product, where its letters allow it: what every library of them computes.
#pragma once
#include <cstdint>
#include <string>

#include "runtime/kernel.h"

namespace longhaul {

/// c [m, n] = a [m, k] b [k, n], row-major and contiguous; a is stored [k, m] where transpose_a, b [n, k] where
/// transpose_b.
struct MatrixProduct {
  std::int64_t m = 0, n = 0, k = 0;
  bool transpose_a = false, transpose_b = false;
  bool swap = false;  ///< a is the op's second operand, b its first
};

/// The product that an einsum, or einsum_add without its addend, is; or false and why it is none.
bool as_product(const LocalOp& op, MatrixProduct& product, std::string& refusal);

}  // namespace longhaul
