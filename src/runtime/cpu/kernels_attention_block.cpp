// attention_block, attention_merge, attention_block_gradient(_add). On a rank a block is attention of what it holds; on
// one device, where the tensors are whole, the op's meaning (block i of the queries, block i − step of the keys) is a
// loop over the blocks.
#include <cstring>

#include "kernels/cpu/attention.h"
#include "kernels/cpu/attention_merge.h"
#include "kernels/cpu/thread_pool.h"
#include "runtime/cpu/bind.h"

namespace longhaul {
namespace {

// One call per (batch element, query block) on one device; one call in all on a rank.
struct Blocks {
  cpu::AttentionProblem problem;  // of one call
  std::int64_t batch = 1, blocks = 1, step = 0;
  DType dtype = DType::float32, wide = DType::float32;

  std::int64_t calls() const { return blocks == 1 ? 1 : batch * blocks; }
  std::int64_t queries() const { return problem.queries * blocks; }  // of a whole sequence
  std::int64_t keys() const { return problem.keys * blocks; }
};

Blocks blocks_of(const CpuProblem& problem) {
  Blocks blocks;
  const auto &q = problem.operands[0], &k = problem.operands[1];
  blocks.batch = q.shape[0];
  blocks.blocks = problem.single_device ? problem.op.attributes.integer("blocks", 1) : 1;
  blocks.step = problem.op.attributes.integer("step");
  blocks.dtype = q.dtype;
  blocks.wide = q.dtype == DType::float64 ? DType::float64 : DType::float32;
  blocks.problem.batch = blocks.blocks == 1 ? blocks.batch : 1;
  blocks.problem.queries = q.shape[1] / blocks.blocks;
  blocks.problem.keys = k.shape[1] / blocks.blocks;
  blocks.problem.heads = q.shape[2];
  blocks.problem.kv_heads = k.shape[2];
  blocks.problem.head_dim = q.shape[3];
  blocks.problem.window = problem.op.attributes.integer("window");
  blocks.problem.scale = problem.op.attributes.number("scale", 1);
  blocks.problem.soft_cap = problem.op.attributes.number("soft_cap", 0);
  return blocks;
}

// Where call i finds its part of a tensor of `row` elements a token.
struct Place {
  std::int64_t query_token, key_token, batch, query_block;
};
Place place(const Blocks& blocks, std::int64_t call) {
  const std::int64_t batch = call / blocks.blocks, i = call % blocks.blocks,
                     k = ((i - blocks.step) % blocks.blocks + blocks.blocks) % blocks.blocks;
  return {batch * blocks.queries() + i * blocks.problem.queries, batch * blocks.keys() + k * blocks.problem.keys, batch,
          i};
}

template <typename T>
T* advance(T* base, std::int64_t elements, DType type) {
  using Byte = std::conditional_t<std::is_const_v<T>, const char, char>;
  return static_cast<T*>(static_cast<Byte*>(base) + elements * static_cast<std::int64_t>(size_of(type)));
}

void set_indices(cpu::AttentionProblem& problem, const CpuCall& call, const Place& at) {
  problem.query_index = static_cast<const std::int32_t*>(call.operands[3]) + at.query_token;
  problem.key_index = static_cast<const std::int32_t*>(call.operands[4]) + at.key_token;
  problem.key_start = static_cast<const std::int32_t*>(call.operands[5]) + at.query_token;
}

// log_sum_exp is [batch, heads, queries]: a block of queries is not contiguous there. On one device blocks pass through
// scratch.
std::size_t statistics_bytes(const Blocks& blocks) {
  return (static_cast<std::size_t>(blocks.problem.heads * blocks.problem.queries) * size_of(blocks.wide) + 63) / 64 *
         64;
}
void copy_statistics(const Blocks& blocks, const Place& at, char* whole, char* block, bool out) {
  const auto element = static_cast<std::int64_t>(size_of(blocks.wide)), run = blocks.problem.queries * element;
  for (std::int64_t h = 0; h < blocks.problem.heads; ++h) {
    char* row =
        whole +
        ((at.batch * blocks.problem.heads + h) * blocks.queries() + at.query_block * blocks.problem.queries) * element;
    char* other = block + h * run;
    std::memcpy(out ? other : row, out ? row : other, static_cast<std::size_t>(run));
  }
}

const cpu::AttentionImplementation& choose(const Blocks& blocks, bool fast, CpuKernel& kernel) {
  const cpu::AttentionImplementation& chosen =
      fast ? cpu::select_attention(blocks.problem, blocks.dtype) : cpu::attention_implementations().back();
  kernel.name = std::string(chosen.name);
  return chosen;
}

template <bool fast>
bool make_block(const CpuProblem& problem, CpuKernel& kernel, std::string&) {
  const Blocks blocks = blocks_of(problem);
  const auto& chosen = choose(blocks, fast, kernel);
  const DType out_dtype = problem.results[0].dtype;
  const std::size_t statistics = blocks.blocks == 1 ? 0 : statistics_bytes(blocks);
  kernel.scratch_bytes =
      statistics + chosen.forward_scratch_bytes(blocks.problem, blocks.dtype, problem.context.threads());
  kernel.run = [blocks, out_dtype, statistics, &chosen](const CpuCall& call) {
    const std::int64_t row = blocks.problem.heads * blocks.problem.head_dim,
                       kv_row = blocks.problem.kv_heads * blocks.problem.head_dim;
    for (std::int64_t i = 0; i < blocks.calls(); ++i) {
      const Place at = place(blocks, i);
      cpu::AttentionProblem one = blocks.problem;
      set_indices(one, call, at);
      cpu::AttentionForward tensors;
      tensors.dtype = blocks.dtype;
      tensors.q = advance(call.operands[0], at.query_token * row, blocks.dtype);
      tensors.k = advance(call.operands[1], at.key_token * kv_row, blocks.dtype);
      tensors.v = advance(call.operands[2], at.key_token * kv_row, blocks.dtype);
      tensors.out_dtype = out_dtype;
      tensors.out = advance(call.results[0], at.query_token * row, out_dtype);
      tensors.log_sum_exp = statistics ? call.scratch : call.results[1];
      chosen.forward(one, tensors, call.context.pool(), static_cast<char*>(call.scratch) + statistics);
      if (statistics)
        copy_statistics(blocks, at, static_cast<char*>(call.results[1]), static_cast<char*>(call.scratch), false);
    }
  };
  return true;
}

template <bool fast>
bool make_gradient(const CpuProblem& problem, CpuKernel& kernel, std::string&) {
  const Blocks blocks = blocks_of(problem);
  const auto& chosen = choose(blocks, fast, kernel);
  const bool adds = problem.operands.size() == 12;
  const DType dq_dtype = problem.results[0].dtype, dkv_dtype = problem.results[1].dtype;
  const std::size_t statistics = blocks.blocks == 1 ? 0 : statistics_bytes(blocks);
  kernel.scratch_bytes =
      statistics + chosen.backward_scratch_bytes(blocks.problem, blocks.dtype, dq_dtype, problem.context.threads());
  const std::array<std::size_t, 3> bytes = {static_cast<std::size_t>(problem.results[0].bytes()),
                                            static_cast<std::size_t>(problem.results[1].bytes()),
                                            static_cast<std::size_t>(problem.results[2].bytes())};
  kernel.run = [=, &chosen](const CpuCall& call) {
    for (std::size_t i = 0; i < 3; ++i)
      if (adds && call.operands[9 + i] != call.results[i]) std::memcpy(call.results[i], call.operands[9 + i], bytes[i]);
    const std::int64_t row = blocks.problem.heads * blocks.problem.head_dim,
                       kv_row = blocks.problem.kv_heads * blocks.problem.head_dim;
    for (std::int64_t i = 0; i < blocks.calls(); ++i) {
      const Place at = place(blocks, i);
      cpu::AttentionProblem one = blocks.problem;
      set_indices(one, call, at);
      cpu::AttentionBackward tensors;
      tensors.dtype = blocks.dtype;
      tensors.q = advance(call.operands[0], at.query_token * row, blocks.dtype);
      tensors.k = advance(call.operands[1], at.key_token * kv_row, blocks.dtype);
      tensors.v = advance(call.operands[2], at.key_token * kv_row, blocks.dtype);
      tensors.delta = advance(call.operands[6], at.query_token * blocks.problem.heads, blocks.wide);
      tensors.log_sum_exp = call.operands[7];
      if (statistics) {
        copy_statistics(blocks, at, const_cast<char*>(static_cast<const char*>(call.operands[7])),
                        static_cast<char*>(call.scratch), true);
        tensors.log_sum_exp = call.scratch;
      }
      tensors.dout = advance(call.operands[8], at.query_token * row, blocks.dtype);
      tensors.dq_dtype = dq_dtype;
      tensors.dkv_dtype = dkv_dtype;
      tensors.dq = advance(call.results[0], at.query_token * row, dq_dtype);
      tensors.dk = advance(call.results[1], at.key_token * kv_row, dkv_dtype);
      tensors.dv = advance(call.results[2], at.key_token * kv_row, dkv_dtype);
      tensors.accumulate_dq = tensors.accumulate_dkv = adds;
      chosen.backward(one, tensors, call.context.pool(), static_cast<char*>(call.scratch) + statistics);
    }
  };
  return true;
}

bool make_merge(const CpuProblem& problem, CpuKernel& kernel, std::string&) {
  const auto& out = problem.results[0];
  const cpu::AttentionMerge merge{out.dtype, nullptr,      nullptr,      nullptr,      nullptr,     nullptr,
                                  nullptr,   out.shape[0], out.shape[1], out.shape[2], out.shape[3]};
  using Merge = cpu::AttentionMerge;
  return bind::run(kernel, merge,
                   bind::operands(&Merge::out_a, &Merge::log_sum_exp_a, &Merge::out_b, &Merge::log_sum_exp_b),
                   bind::results(&Merge::out, &Merge::log_sum_exp), cpu::attention_merge);
}

const CpuKernels block("attention_block", bind::fast_and_reference(make_block<true>, make_block<false>));
const CpuKernels gradient("attention_block_gradient",
                          bind::fast_and_reference(make_gradient<true>, make_gradient<false>));
const CpuKernels gradient_add("attention_block_gradient_add",
                              bind::fast_and_reference(make_gradient<true>, make_gradient<false>));
const CpuKernels merge("attention_merge", bind::only(make_merge));

}  // namespace
}  // namespace longhaul
