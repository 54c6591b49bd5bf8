// expand_heads and reduce_heads.
#include "kernels/cpu/kv_heads.h"

#include "kernels/cpu/thread_pool.h"
#include "runtime/cpu/bind.h"

namespace longhaul {
namespace {

enum class Form { expand, reduce, reduce_reference };

template <Form form>
bool make(const CpuProblem& problem, CpuKernel& kernel, std::string&) {
  const auto &few = problem.operands[0], &many = problem.results[0];
  cpu::KvHeads heads{few.dtype,     nullptr,      many.dtype,  nullptr, few.shape[0] * few.shape[1],
                     many.shape[2], few.shape[2], few.shape[3]};
  if (form != Form::expand) std::swap(heads.heads, heads.kv_heads);
  kernel.run = [heads](const CpuCall& call) {
    cpu::KvHeads one = heads;
    one.x = call.operands[0];
    one.y = call.results[0];
    if constexpr (form == Form::expand)
      cpu::expand_heads(call.context.pool(), one);
    else if constexpr (form == Form::reduce)
      cpu::reduce_heads(call.context.pool(), one);
    else
      cpu::reference::reduce_heads(one);
  };
  return true;
}

const CpuKernels expand("expand_heads", bind::only(make<Form::expand>));
const CpuKernels reduce("reduce_heads", bind::fast_and_reference(make<Form::reduce>, make<Form::reduce_reference>));

}  // namespace
}  // namespace longhaul
