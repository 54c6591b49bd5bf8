// einsum and einsum_add: as one matrix product where the letters allow it, else plain loops.
#include <memory>

#include "kernels/cpu/einsum.h"
#include "kernels/cpu/matmul.h"
#include "kernels/cpu/thread_pool.h"
#include "runtime/cpu/bind.h"

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

// c[M, N] = a[M, K] b[K, N], each operand with its two groups of letters in either order.
struct Product {
  std::string m, n, k;
  bool transpose_a = false, transpose_b = false, swap = false;
};

bool as_product(const Signature& signature, Product& product, std::string& refusal) {
  const std::string &a = signature.operands[0], &b = signature.operands[1], &c = signature.results[0];
  for (char letter : a)
    if (contains(b, letter) && contains(c, letter)) {
      refusal = "a letter in both operands and the result";
      return false;
    }
  product.m = letters_in(a, c, b);
  product.n = letters_in(b, c, a);
  product.k = letters_in(a, b, c);
  if (c == product.n + product.m && c != product.m + product.n) product.swap = true;
  const bool fits_a = a == product.m + product.k || a == product.k + product.m;
  const bool fits_b = b == product.k + product.n || b == product.n + product.k;
  const bool fits_c = product.swap || c == product.m + product.n;
  if (!fits_a || !fits_b || !fits_c) {
    refusal = "letters are no two groups";
    return false;
  }
  product.transpose_a = a != product.m + product.k;
  product.transpose_b = b != product.k + product.n;
  return true;
}

std::int64_t extent(const CpuProblem& problem, const std::string& letters) {
  std::int64_t size = 1;
  for (char letter : letters)
    for (std::size_t i = 0; i < 2; ++i) {
      const auto at = problem.op.signature->operands[i].find(letter);
      if (at == std::string::npos) continue;
      size *= problem.operands[i].shape[at];
      break;
    }
  return size;
}

bool make_matmul(const CpuProblem& problem, CpuKernel& kernel, std::string& refusal) {
  Product product;
  if (!as_product(*problem.op.signature, product, refusal)) return false;
  cpu::MatmulProblem matmul{};
  matmul.m = extent(problem, product.m);
  matmul.n = extent(problem, product.n);
  matmul.k = extent(problem, product.k);
  matmul.transpose_a = product.transpose_a;
  matmul.transpose_b = product.transpose_b;
  matmul.a = problem.operands[0].dtype;
  matmul.b = problem.operands[1].dtype;
  matmul.c = problem.results[0].dtype;
  if (product.swap) {  // cᵀ = bᵀ aᵀ
    std::swap(matmul.m, matmul.n);
    std::swap(matmul.a, matmul.b);
    matmul.transpose_a = !product.transpose_b;
    matmul.transpose_b = !product.transpose_a;
  }
  matmul.lda = matmul.transpose_a ? matmul.m : matmul.k;
  matmul.ldb = matmul.transpose_b ? matmul.k : matmul.n;
  matmul.ldc = matmul.n;
  const bool adds = problem.operands.size() == 3;
  matmul.accumulate = adds;
  if (matmul.a != matmul.b) {
    refusal = "operands of two dtypes";
    return false;
  }
  auto plan = std::make_shared<cpu::Matmul>(matmul, problem.context.threads(), "", problem.context.libraries());
  kernel.name = plan->backend();
  kernel.provisional = !problem.context.libraries();
  kernel.scratch_bytes = plan->scratch_bytes();
  const bool swap = product.swap;
  const std::size_t bytes = static_cast<std::size_t>(problem.results[0].bytes());
  kernel.run = [plan, swap, adds, bytes](const CpuCall& call) {
    if (adds && call.operands[2] != call.results[0]) std::memcpy(call.results[0], call.operands[2], bytes);
    plan->run(call.context.pool(), call.operands[swap ? 1 : 0], call.operands[swap ? 0 : 1], nullptr, call.results[0],
              call.scratch);
  };
  return true;
}

bool make_reference(const CpuProblem& problem, CpuKernel& kernel, std::string& refusal) {
  if (problem.operands[0].dtype != problem.operands[1].dtype) {
    refusal = "operands of two dtypes";
    return false;
  }
  cpu::Einsum einsum{};
  const Signature& signature = *problem.op.signature;
  einsum.type = problem.operands[0].dtype;
  einsum.result_type = problem.results[0].dtype;
  std::string letters = signature.results[0];
  for (std::size_t i = 0; i < 2; ++i)
    for (char letter : signature.operands[i])
      if (!contains(letters, letter)) letters += letter;
  einsum.result_letters = static_cast<int>(signature.results[0].size());
  einsum.letters = static_cast<int>(letters.size());
  LONGHAUL_CHECK(einsum.letters <= cpu::Einsum::most_letters, "einsum of {} letters", einsum.letters);
  for (int i = 0; i < einsum.letters; ++i)
    einsum.size[i] = extent(problem, std::string(1, letters[static_cast<std::size_t>(i)]));
  const auto strides = [&](const std::string& operand, std::int64_t* stride) {
    std::int64_t step = 1;
    for (std::size_t k = operand.size(); k-- > 0;) {
      const auto at = letters.find(operand[k]);
      stride[at] = step;
      step *= einsum.size[at];
    }
  };
  strides(signature.operands[0], einsum.a_stride);
  strides(signature.operands[1], einsum.b_stride);
  const bool adds = problem.operands.size() == 3;
  kernel.run = [einsum, adds](const CpuCall& call) {
    cpu::Einsum one = einsum;
    one.a = call.operands[0];
    one.b = call.operands[1];
    one.addend = adds ? call.operands[2] : nullptr;
    one.result = call.results[0];
    cpu::reference::einsum(one);
  };
  return true;
}

const CpuKernels einsum("einsum", {{"matmul", make_matmul}, {"reference", make_reference}});
const CpuKernels einsum_add("einsum_add", {{"matmul", make_matmul}, {"reference", make_reference}});

}  // namespace
}  // namespace longhaul
