#include "runtime/product.h"

#include <utility>

#include "ir/op_definition.h"

namespace longhaul {
namespace {

bool contains(const std::string& letters, char letter) {
  return letters.find(letter) != std::string::npos;
}

// The letters of `from` that both of the others treat alike: kept in order.
std::string letters_in(const std::string& from, const std::string& with, const std::string& without) {
  std::string kept;
  for (char letter : from)
    if (contains(with, letter) && !contains(without, letter)) kept += letter;
  return kept;
}

std::int64_t extent(const LocalOp& op, std::size_t operand, const std::string& letters) {
  const std::string& all = op.op.signature->operands[operand];
  std::int64_t size = 1;
  for (char letter : letters) size *= op.operands[operand].shape[all.find(letter)];
  return size;
}

}  // namespace

bool as_product(const LocalOp& op, MatrixProduct& product, std::string& refusal) {
  const Signature& signature = *op.op.signature;
  const std::string &a = signature.operands[0], &b = signature.operands[1], &c = signature.results[0];
  for (char letter : a)
    if (contains(b, letter) && contains(c, letter)) {
      refusal = "a letter in both operands and the result";
      return false;
    }
  // Each operand has its two groups of letters in either order.
  const std::string m = letters_in(a, c, b), n = letters_in(b, c, a), k = letters_in(a, b, c);
  product.swap = c == n + m && c != m + n;
  const bool fits_a = a == m + k || a == k + m, fits_b = b == k + n || b == n + k;
  if (!fits_a || !fits_b || (!product.swap && c != m + n)) {
    refusal = "letters are no two groups";
    return false;
  }
  product.transpose_a = a != m + k;
  product.transpose_b = b != k + n;
  product.m = extent(op, 0, m);
  product.n = extent(op, 1, n);
  product.k = extent(op, 0, k);
  if (product.swap) {  // cᵀ = bᵀ aᵀ
    std::swap(product.m, product.n);
    const bool transpose_a = product.transpose_a;
    product.transpose_a = !product.transpose_b;
    product.transpose_b = !transpose_a;
  }
  return true;
}

}  // namespace longhaul
