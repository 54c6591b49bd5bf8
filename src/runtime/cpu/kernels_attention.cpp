// attention, attention_delta and attention_gradient(_add).
#include "kernels/cpu/attention.h"

#include "kernels/cpu/attention_delta.h"
#include "kernels/cpu/thread_pool.h"
#include "runtime/cpu/bind.h"

namespace longhaul {
namespace {

cpu::AttentionProblem problem_of(const CpuProblem& problem) {
  const auto &q = problem.operands[0], &k = problem.operands[1];
  cpu::AttentionProblem attention;
  attention.batch = q.shape[0];
  attention.queries = q.shape[1];
  attention.keys = k.shape[1];
  attention.heads = q.shape[2];
  attention.kv_heads = k.shape[2];
  attention.head_dim = q.shape[3];
  attention.window = problem.op.attributes.integer("window");
  attention.scale = problem.op.attributes.number("scale", 1);
  attention.soft_cap = problem.op.attributes.number("soft_cap", 0);
  return attention;
}

void set_indices(cpu::AttentionProblem& attention, const CpuCall& call) {
  attention.query_index = static_cast<const std::int32_t*>(call.operands[3]);
  attention.key_index = static_cast<const std::int32_t*>(call.operands[4]);
  attention.key_start = static_cast<const std::int32_t*>(call.operands[5]);
}

// The implementation: the preferred one that accepts, or the reference.
const cpu::AttentionImplementation& choose(const cpu::AttentionProblem& attention, DType dtype, bool fast,
                                           CpuKernel& kernel) {
  const auto all = cpu::attention_implementations();
  const cpu::AttentionImplementation& chosen = fast ? cpu::select_attention(attention, dtype) : all.back();
  kernel.name = std::string(chosen.name);
  return chosen;
}

template <bool fast>
bool make_forward(const CpuProblem& problem, CpuKernel& kernel, std::string&) {
  const cpu::AttentionProblem attention = problem_of(problem);
  const DType dtype = problem.operands[0].dtype, out = problem.results[0].dtype;
  const auto& chosen = choose(attention, dtype, fast, kernel);
  kernel.scratch_bytes = chosen.forward_scratch_bytes(attention, dtype, problem.context.threads());
  kernel.run = [attention, dtype, out, &chosen](const CpuCall& call) {
    cpu::AttentionProblem one = attention;
    set_indices(one, call);
    cpu::AttentionForward tensors;
    tensors.dtype = dtype;
    tensors.q = call.operands[0];
    tensors.k = call.operands[1];
    tensors.v = call.operands[2];
    tensors.out_dtype = out;
    tensors.out = call.results[0];
    tensors.log_sum_exp = call.results[1];
    chosen.forward(one, tensors, call.context.pool(), call.scratch);
  };
  return true;
}

template <bool fast>
bool make_backward(const CpuProblem& problem, CpuKernel& kernel, std::string&) {
  const cpu::AttentionProblem attention = problem_of(problem);
  const DType dtype = problem.operands[0].dtype;
  const auto& chosen = choose(attention, dtype, fast, kernel);
  cpu::AttentionBackward types;
  types.dtype = dtype;
  types.dq_dtype = problem.results[0].dtype;
  types.dkv_dtype = problem.results[1].dtype;
  types.accumulate_dkv = problem.operands.size() == 11;
  kernel.scratch_bytes = chosen.backward_scratch_bytes(attention, dtype, types.dq_dtype, problem.context.threads());
  kernel.run = [attention, types, &chosen](const CpuCall& call) {
    cpu::AttentionProblem one = attention;
    set_indices(one, call);
    cpu::AttentionBackward tensors = types;
    tensors.q = call.operands[0];
    tensors.k = call.operands[1];
    tensors.v = call.operands[2];
    tensors.delta = call.operands[6];
    tensors.log_sum_exp = call.operands[7];
    tensors.dout = call.operands[8];
    tensors.dq = call.results[0];
    tensors.dk = call.results[1];
    tensors.dv = call.results[2];
    chosen.backward(one, tensors, call.context.pool(), call.scratch);
  };
  if (types.accumulate_dkv)
    bind::copy_first(kernel, {{9, 1, problem.results[1].bytes()}, {10, 2, problem.results[2].bytes()}});
  return true;
}

template <bool fast>
bool make_delta(const CpuProblem& problem, CpuKernel& kernel, std::string&) {
  using Delta = cpu::AttentionDelta;
  const auto& out = problem.operands[0];
  return bind::run<fast>(kernel, Delta{out.dtype, nullptr, nullptr, nullptr, bind::rows(out), bind::last(out)},
                         bind::operands(&Delta::out, &Delta::dout), bind::results(&Delta::delta), cpu::attention_delta,
                         cpu::reference::attention_delta);
}

const CpuKernels delta("attention_delta", bind::fast_and_reference(make_delta<true>, make_delta<false>));
const CpuKernels forward("attention", bind::fast_and_reference(make_forward<true>, make_forward<false>));
const CpuKernels backward("attention_gradient", bind::fast_and_reference(make_backward<true>, make_backward<false>));
const CpuKernels backward_add("attention_gradient_add",
                              bind::fast_and_reference(make_backward<true>, make_backward<false>));

}  // namespace
}  // namespace longhaul
