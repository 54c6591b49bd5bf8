// expand_heads and reduce_heads.
#include "kernels/cpu/kv_heads.h"

#include "runtime/cpu/bind.h"

namespace longhaul {
namespace {

// With the heads of x and y: the many of one, the few of the other.
cpu::KvHeads heads_of(const CpuProblem& problem, std::int64_t heads, std::int64_t kv_heads) {
  const auto &x = problem.operands[0], &y = problem.results[0];
  return {x.dtype, nullptr, y.dtype, nullptr, x.shape[0] * x.shape[1], heads, kv_heads, x.shape[3]};
}

bool make_expand(const CpuProblem& problem, CpuKernel& kernel, std::string&) {
  return bind::run(kernel, heads_of(problem, problem.results[0].shape[2], problem.operands[0].shape[2]),
                   bind::operands(&cpu::KvHeads::x), bind::results(&cpu::KvHeads::y), cpu::expand_heads);
}

template <bool fast>
bool make_reduce(const CpuProblem& problem, CpuKernel& kernel, std::string&) {
  return bind::run<fast>(kernel, heads_of(problem, problem.operands[0].shape[2], problem.results[0].shape[2]),
                         bind::operands(&cpu::KvHeads::x), bind::results(&cpu::KvHeads::y), cpu::reduce_heads,
                         cpu::reference::reduce_heads);
}

const CpuKernels expand("expand_heads", bind::only(make_expand));
const CpuKernels reduce("reduce_heads", bind::fast_and_reference(make_reduce<true>, make_reduce<false>));

}  // namespace
}  // namespace longhaul
