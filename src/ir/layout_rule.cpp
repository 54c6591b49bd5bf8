#include "base/error.h"
#include "base/moment_block.h"
#include "ir/op_definition.h"

namespace longhaul {
namespace {

// Point 4 of the rule for a flat operand of a pointwise op: all tensors become flat shards, scalars stay whole, and a
// scalar result is a partial sum of the shards' results. Where a letter counts blocks, shards are whole blocks.
Rule flat_rule(const OpDefinition& definition, const Signature& signature, const Layout& have) {
  const bool blocks = !definition.blocks.empty();
  Rule rule;
  const auto shard = [&](const std::string& letters) {
    Layout layout = Layout::whole(letters.size());
    if (!letters.empty())
      layout.set_flat(have.flat, !blocks ? have.flat_block : letters == definition.blocks ? 1 : moment_block);
    return layout;
  };
  for (const auto& letters : signature.operands) rule.operands.push_back(shard(letters));
  for (const auto& letters : signature.results) {
    rule.results.push_back(shard(letters));
    if (letters.empty()) rule.results.back().partial = have.flat.set();
  }
  return rule;
}

bool contains(const std::string& letters, char letter) {
  return letters.find(letter) != std::string::npos;
}

bool contracted(const Signature& signature, char letter) {
  for (const auto& result : signature.results)
    if (contains(result, letter)) return false;
  return true;
}

// Point 1: the op's mark decides, then the first operand that splits a letter.
Factors choose_factors(const Graph& graph, const Op& op, const std::vector<Layout>& have, AxisSet used) {
  const OpDefinition& definition = *op.definition;
  const Signature& signature = *op.signature;
  const LetterSplits& marks = op.attributes.split();
  Factors factors;
  for (const auto& [letter, split] : marks) {
    factors[letter] = split;
    used |= split.axes.set();
  }
  for (std::size_t i = 0; i < signature.operands.size(); ++i)
    for (std::size_t k = 0; k < signature.operands[i].size(); ++k) {
      const char letter = signature.operands[i][k];
      const DimensionLayout& split = have[i].dimensions[k];
      if (split.axes.empty() || !factors[letter].axes.empty() || (split.axes.set() & used) ||
          contains(definition.whole, letter) || contains(definition.only_marked, letter) || marks.find(letter))
        continue;
      if (definition.contracted_whole && contracted(signature, letter)) continue;
      if (!definition.pointwise && graph[op.operands[i]].shape[k] % graph.mesh.count(split.axes)) continue;
      factors[letter] = split;
      used |= split.axes.set();
    }
  return factors;
}

}  // namespace

std::string mark_problem(const Graph& graph, const Op& op) {
  const OpDefinition& definition = *op.definition;
  const Signature& signature = *op.signature;
  const auto refusal = [&] { return fmt::format("{} has its own layouts: no mark splits it", definition.name); };
  if (definition.communication) {  // an all_to_all's `split` is a dimension
    const Attribute* split = op.attributes.find("split");
    return split && std::holds_alternative<LetterSplits>(*split) ? refusal() : "";
  }
  for (const auto& [letter, split] : op.attributes.split()) {
    if (definition.factors) return refusal();
    std::int64_t size = -1;
    for (std::size_t i = 0; i < signature.operands.size(); ++i)
      if (const auto k = signature.operands[i].find(letter); k != std::string::npos)
        size = graph[op.operands[i]].shape[k];
    if (size < 0) return fmt::format("no operand has the letter {} that its mark splits", letter);
    if (split.axes.empty()) continue;
    if (contains(definition.whole, letter)) return fmt::format("needs letter {} whole, its mark splits it", letter);
    if (definition.contracted_whole && contracted(signature, letter))
      return fmt::format("its mark splits letter {}: the addend would count once a rank", letter);
    if (const int ranks = graph.mesh.count(split.axes); !definition.pointwise && size % ranks)
      return fmt::format("its mark splits letter {} of size {} over {} ranks", letter, size, ranks);
  }
  return "";
}

Rule layout_rule(const Graph& graph, const Op& op, const std::vector<Layout>& have) {
  const OpDefinition& definition = *op.definition;
  const Signature& signature = *op.signature;
  LONGHAUL_CHECK(!definition.communication, "{} has no layout rule: it changes layouts", definition.name);

  AxisSet partial = 0;
  if (definition.linear && !have.empty()) {
    partial = have.front().partial;
    for (const auto& layout : have)
      if (layout.partial != partial) partial = 0;
  }
  if (definition.pointwise && op.attributes.split().empty())
    for (const auto& layout : have)
      if (!layout.flat.empty() && !(layout.flat.set() & partial)) {
        Rule rule = flat_rule(definition, signature, layout);
        for (auto& operand : rule.operands) operand.partial = partial;
        for (auto& result : rule.results) result.partial |= partial;
        return rule;
      }

  const Factors factors =
      definition.factors ? definition.factors(graph, op, have) : choose_factors(graph, op, have, partial);
  const auto place = [&](const std::string& letters) {
    Layout layout = Layout::whole(letters.size());
    for (std::size_t k = 0; k < letters.size(); ++k) layout.dimensions[k] = factors[letters[k]];
    layout.partial = partial;
    return layout;
  };
  Rule rule;
  for (const auto& letters : signature.operands) rule.operands.push_back(place(letters));
  for (const auto& letters : signature.results) {
    Layout layout = place(letters);
    const AxisSet here = layout.split();
    for (const auto& operand : signature.operands)
      for (char letter : operand)
        if (!contains(letters, letter)) layout.partial |= factors[letter].axes.set() & ~here;
    rule.results.push_back(std::move(layout));
  }
  if (definition.onto >= 0) rule.operands[static_cast<std::size_t>(definition.onto)] = rule.results[0];
  return rule;
}

}  // namespace longhaul
