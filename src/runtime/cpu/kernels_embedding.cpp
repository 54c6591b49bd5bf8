// embedding and its gradient; rope_table and rope.
#include "kernels/cpu/embedding.h"

#include "kernels/cpu/rope.h"
#include "runtime/cpu/bind.h"

namespace longhaul {
namespace {

template <bool fast>
bool make_embedding(const CpuProblem& problem, CpuKernel& kernel, std::string&) {
  const auto& table = problem.operands[1];
  cpu::Embedding embedding{table.dtype,    nullptr,       nullptr, nullptr, problem.operands[0].count(),
                           table.shape[0], table.shape[1]};
  return bind::run<fast>(kernel, embedding, bind::operands(&cpu::Embedding::tokens, &cpu::Embedding::table),
                         bind::results(&cpu::Embedding::y), cpu::embedding, cpu::reference::embedding);
}

template <bool fast>
bool make_embedding_gradient(const CpuProblem& problem, CpuKernel& kernel, std::string&) {
  const auto& table = problem.results[0];
  cpu::EmbeddingGradient gradient{problem.operands[1].dtype,   nullptr,        nullptr,        table.dtype, nullptr,
                                  problem.operands[0].count(), table.shape[0], table.shape[1], nullptr};
  gradient.accumulate = problem.operands.size() == 3;
  if (fast) kernel.scratch_bytes = cpu::embedding_gradient_scratch_bytes(gradient.n, gradient.v);
  bind::run<fast>(kernel, gradient, bind::operands(&cpu::EmbeddingGradient::tokens, &cpu::EmbeddingGradient::dy),
                  bind::results(&cpu::EmbeddingGradient::dtable), cpu::embedding_gradient,
                  cpu::reference::embedding_gradient);
  if (gradient.accumulate) bind::copy_first(kernel, {{2, 0, table.bytes()}});
  return true;
}

template <bool fast>
bool make_rope_table(const CpuProblem& problem, CpuKernel& kernel, std::string&) {
  const std::vector<double> frequencies = problem.op.attributes.numbers("inverse_frequencies");
  cpu::RopeTable table{};
  table.scale = problem.op.attributes.number("scale", 1);
  table.growth = problem.op.attributes.number("growth", 0);
  table.growth_length = problem.op.attributes.integer("growth_length", 1);
  table.table_type = problem.results[0].dtype;
  table.n = problem.operands[0].count();
  table.rotary_dim = problem.results[0].shape.back();
  LONGHAUL_CHECK(static_cast<std::int64_t>(frequencies.size()) * 2 == table.rotary_dim, "rope_table: {} frequencies",
                 frequencies.size());
  kernel.run = [table, frequencies](const CpuCall& call) {
    cpu::RopeTable one = table;
    one.inverse_frequency = frequencies.data();
    one.position = static_cast<const std::int32_t*>(call.operands[0]);
    one.table = call.results[0];
    if constexpr (fast)
      cpu::rope_table(call.context.pool(), one);
    else
      cpu::reference::rope_table(one);
  };
  return true;
}

template <bool fast>
bool make_rope(const CpuProblem& problem, CpuKernel& kernel, std::string&) {
  const auto& x = problem.operands[0];
  cpu::Rope rope{};
  rope.type = x.dtype;
  rope.table_type = problem.operands[1].dtype;
  rope.n = x.shape[0] * x.shape[1];
  rope.heads = x.shape[2];
  rope.head_dim = x.shape[3];
  rope.rotary_dim = problem.operands[1].shape.back();
  rope.inverse = problem.op.attributes.integer("inverse") != 0;
  return bind::run<fast>(kernel, rope, bind::operands(&cpu::Rope::x, &cpu::Rope::table), bind::results(&cpu::Rope::y),
                         cpu::rope, cpu::reference::rope);
}

const CpuKernels embedding("embedding", bind::fast_and_reference(make_embedding<true>, make_embedding<false>));
const CpuKernels embedding_gradient("embedding_gradient", bind::fast_and_reference(make_embedding_gradient<true>,
                                                                                   make_embedding_gradient<false>));
const CpuKernels embedding_gradient_add("embedding_gradient_add",
                                        bind::fast_and_reference(make_embedding_gradient<true>,
                                                                 make_embedding_gradient<false>));
const CpuKernels rope_table("rope_table", bind::fast_and_reference(make_rope_table<true>, make_rope_table<false>));
const CpuKernels rope("rope", bind::fast_and_reference(make_rope<true>, make_rope<false>));

}  // namespace
}  // namespace longhaul
