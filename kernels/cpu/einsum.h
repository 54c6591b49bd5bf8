// A contraction of two tensors by plain loops: the reference for every matrix product.
#pragma once
#include <cstdint>

#include "base/dtype.h"

namespace longhaul::cpu {

/// result[r] = (addend[r] or 0) + sum over the contracted letters of a · b. Letters are numbered, the result's first
/// and in its order.
struct Einsum {
  static constexpr int most_letters = 8;
  DType type;         ///< of a and b
  DType result_type;  ///< of result and addend
  int letters, result_letters;
  std::int64_t size[most_letters];
  std::int64_t a_stride[most_letters], b_stride[most_letters];  ///< in elements; 0 where the letter is absent
  const void* a;
  const void* b;
  const void* addend;  ///< or null; may be result
  void* result;
};

namespace reference {
void einsum(const Einsum& problem);
}

}  // namespace longhaul::cpu
