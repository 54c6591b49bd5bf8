// einsum, einsum_add and einsum_accumulate: as one matrix product where the letters allow it, else plain loops.
#include <memory>

#include "kernels/cpu/einsum.h"
#include "kernels/cpu/matmul.h"
#include "kernels/cpu/thread_pool.h"
#include "runtime/cpu/bind.h"
#include "runtime/product.h"

namespace longhaul {
namespace {

bool contains(const std::string& letters, char letter) {
  return letters.find(letter) != std::string::npos;
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
  MatrixProduct product;
  if (!as_product(problem, product, refusal)) return false;
  cpu::MatmulProblem matmul{};
  matmul.m = product.m;
  matmul.n = product.n;
  matmul.k = product.k;
  matmul.transpose_a = product.transpose_a;
  matmul.transpose_b = product.transpose_b;
  matmul.a = problem.operands[product.swap ? 1 : 0].dtype;
  matmul.b = problem.operands[product.swap ? 0 : 1].dtype;
  matmul.c = problem.results[0].dtype;
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
const CpuKernels einsum_accumulate("einsum_accumulate", {{"matmul", make_matmul}, {"reference", make_reference}});

}  // namespace
}  // namespace longhaul
