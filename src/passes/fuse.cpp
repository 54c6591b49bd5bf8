// fuse: an accumulator or residual is added by the op that makes the other addend: add(a, einsum(x, y)) ->
// einsum_add(x, y, a); likewise what an embedding's gradient is added to. Never
// into a partial result: the addend would count once a rank.
#include "ir/rewrite.h"
#include "passes/pass.h"

namespace longhaul::passes {
namespace {

/// Name of the op that is `op` with an addend, as its last operand, to its first result; null when there is none.
const OpDefinition* with_addend(const Op& op) {
  for (const char* name : {"einsum", "embedding_gradient"})
    if (op.is(name)) return find_op(std::string(name) + "_add");
  return nullptr;
}

/// The fused op's signature. An einsum states its own.
auto signature_of(Graph& graph, const Op& op, const Op& fused) {
  if (!fused.definition->signature.empty()) return graph.signature(fused.definition->signature, fused.operands);
  const auto& [a, b] = std::pair(op.signature->operands[0], op.signature->operands[1]);
  const std::string& result = op.signature->results[0];
  return graph.signature(a + "," + b + "," + result + "->" + result, fused.operands);
}

}  // namespace

void fuse(Graph& graph, const PassContext&) {
  const auto use = uses(graph);
  const auto definition = definitions(graph);
  std::vector<char> is_output(graph.values.size(), 0);
  for (const auto& output : graph.outputs) is_output[static_cast<std::size_t>(output.value)] = 1;
  std::vector<char> gone(graph.ops.size(), 0);
  for (std::size_t i = 0; i < graph.ops.size(); ++i) {
    Op& add = graph.ops[i];
    if (!add.is("add") || add.operands.size() != 2) continue;
    for (const std::size_t k : {1u, 0u}) {
      const ValueId product = add.operands[k], addend = add.operands[1 - k];
      const std::int32_t at = definition[static_cast<std::size_t>(product)];
      if (at < 0 || use[static_cast<std::size_t>(product)].size() != 1 || is_output[static_cast<std::size_t>(product)])
        continue;
      Op& maker = graph.ops[static_cast<std::size_t>(at)];
      const OpDefinition* fused_definition = with_addend(maker);
      if (!fused_definition || gone[static_cast<std::size_t>(at)] || maker.results[0] != product) continue;
      const Value &sum = graph[add.results[0]], &factor = graph[product], &other = graph[addend];
      if (factor.layout.partial || sum.layout.partial || other.dtype != factor.dtype || sum.dtype != factor.dtype)
        continue;
      // An op with one result moves to where the sum stands: its own operands must not have been overwritten, which
      // values never are. One with more stays, for others read them: its addend must be known there.
      const bool stays = maker.results.size() > 1;
      if (stays && definition[static_cast<std::size_t>(addend)] >= at) continue;
      Op fused = maker;
      fused.definition = fused_definition;
      fused.operands.push_back(addend);
      fused.results[0] = add.results[0];
      fused.made_by = "fuse";
      fused.signature = signature_of(graph, maker, fused);
      std::vector<Layout> have;
      for (ValueId operand : fused.operands) have.push_back(graph[operand].layout);
      const Rule rule = layout_rule(graph, fused, have);
      if (rule.operands != have || !(rule.results[0] == sum.layout)) continue;
      gone[stays ? i : static_cast<std::size_t>(at)] = 1;
      (stays ? maker : add) = std::move(fused);
      break;
    }
  }
  std::vector<std::size_t> kept;
  for (std::size_t i = 0; i < graph.ops.size(); ++i)
    if (!gone[i]) kept.push_back(i);
  select_ops(graph, kept);
}

}  // namespace longhaul::passes
