// einsum and einsum_add as one matrix product by the vendor's library.
#include "runtime/device/bind.h"
#include "runtime/product.h"

namespace longhaul {
namespace {

bool make_matmul(const DeviceProblem& problem, DeviceKernel& kernel, std::string& refusal) {
  MatrixProduct product;
  if (!bind::narrow(refusal, {&problem.operands[0], &problem.operands[1], &problem.results[0]})) return false;
  if (!as_product(problem, product, refusal)) return false;
  if (problem.operands[0].dtype != problem.operands[1].dtype) {
    refusal = "operands of two dtypes";
    return false;
  }
  const bool adds = problem.operands.size() == 3;
  if (adds && problem.operands[2].dtype != problem.results[0].dtype) {
    refusal = "an addend in another dtype than the result";
    return false;
  }
  cuda::Matmul matmul{};
  matmul.m = product.m, matmul.n = product.n, matmul.k = product.k;
  matmul.a_transposed = product.transpose_a, matmul.b_transposed = product.transpose_b;
  matmul.type = bind::type_of(problem.operands[0].dtype), matmul.out_type = bind::type_of(problem.results[0].dtype);
  matmul.alpha = 1, matmul.beta = adds ? 1.0f : 0.0f;
  matmul.a_stride = product.transpose_a ? product.m : product.k;
  matmul.b_stride = product.transpose_b ? product.k : product.n;
  matmul.c_stride = product.n;
  matmul.workspace_bytes = static_cast<std::int64_t>(problem.context.product_workspace());
  kernel.scratch_bytes = problem.context.product_workspace();
  // Values lie at multiples of 64 bytes.
  auto plan = problem.context.products().add(matmul, 16);
  kernel.run = [matmul, adds, swap = product.swap, plan](const DeviceCall& call) {
    cuda::Matmul one = matmul;
    one.a = call.operands[swap ? 1 : 0];
    one.b = call.operands[swap ? 0 : 1];
    one.c = call.results[0];
    if (adds) one.addend = call.operands[2];
    one.workspace = call.scratch;
    plan->run(call.context.device(), one);
  };
  return true;
}

const DeviceKernels einsum("einsum", {{"library", make_matmul}});
const DeviceKernels einsum_add("einsum_add", {{"library", make_matmul}});
const DeviceKernels einsum_accumulate("einsum_accumulate", {{"library", make_matmul}});

}  // namespace
}  // namespace longhaul
