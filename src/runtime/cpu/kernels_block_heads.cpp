// take_heads, put_heads: copies of some heads of every block of a token's.
#include "kernels/cpu/copy_blocks.h"
#include "kernels/cpu/thread_pool.h"
#include "runtime/cpu/bind.h"

namespace longhaul {
namespace {

// Bytes of a head, the dimensions behind the third.
std::int64_t head_bytes(const TensorType& type) {
  return type.bytes() / std::max<std::int64_t>(1, type.shape[0] * type.shape[1] * type.shape[2]);
}

// Between `whole`, from head `from` of every block on, and `part`; null for where a call has them.
cpu::BlockCopy heads_of(const CpuProblem& problem, const TensorType& whole, const TensorType& part, bool into_part) {
  const std::int64_t block = problem.op.attributes.integer("block"), blocks = whole.shape[2] / block,
                     bytes = head_bytes(whole), heads = part.shape[2] / blocks;
  const std::array<std::int64_t, 4> of_whole{0, 0, whole.shape[2] * bytes, block * bytes},
      of_part{0, 0, part.shape[2] * bytes, heads * bytes};
  return {nullptr,
          nullptr,
          {1, 1, whole.shape[0] * whole.shape[1], blocks},
          into_part ? of_whole : of_part,
          into_part ? of_part : of_whole,
          heads * bytes};
}
std::int64_t first_byte(const CpuProblem& problem, const TensorType& whole) {
  return problem.op.attributes.integer("from") * head_bytes(whole);
}

bool make_take(const CpuProblem& problem, CpuKernel& kernel, std::string&) {
  const auto& x = problem.operands[0];
  kernel.run = [copy = heads_of(problem, x, problem.results[0], true),
                from = first_byte(problem, x)](const CpuCall& call) {
    cpu::BlockCopy one = copy;
    one.source = static_cast<const char*>(call.operands[0]) + from;
    one.target = call.results[0];
    cpu::copy_blocks(call.context.pool(), one);
  };
  return true;
}

bool make_put(const CpuProblem& problem, CpuKernel& kernel, std::string&) {
  const auto& x = problem.results[0];
  kernel.run = [copy = heads_of(problem, x, problem.operands[1], false),
                to = first_byte(problem, x)](const CpuCall& call) {
    cpu::BlockCopy one = copy;
    one.source = call.operands[1];
    one.target = static_cast<char*>(call.results[0]) + to;
    cpu::copy_blocks(call.context.pool(), one);
  };
  bind::copy_first(kernel, {{0, 0, x.bytes()}});
  return true;
}

const CpuKernels take("take_heads", bind::only(make_take));
const CpuKernels put("put_heads", bind::only(make_put));

}  // namespace
}  // namespace longhaul
