#include "ir/verifier.h"

#include <algorithm>
#include <map>
#include <vector>

#include "base/error.h"
#include "ir/layout_change.h"
#include "ir/op_definition.h"

namespace longhaul {
namespace {

class Verifier {
 public:
  Verifier(const Graph& graph, Stage stage)
      : graph_(graph), stage_(stage), defined_(graph.values.size(), 0), staging_(graph.values.size(), 0) {}

  std::string run() {
    for (const auto& input : graph_.inputs) {
      if (!valid(input.value)) return fmt::format("input {} has no value", input.name);
      if (graph_[input.value].space != Space::device) return fmt::format("input {} is in host memory", input.name);
      if (defined_[index(input.value)]++)
        return fmt::format("input {}: value %{} is bound twice", input.name, input.value);
      if (stage_ >= Stage::placed)
        if (auto problem = check_layout(input.value, true); !problem.empty())
          return fmt::format("input {}: {}", input.name, problem);
    }
    for (std::size_t i = 0; i < graph_.ops.size(); ++i) {
      std::string problem = check(graph_.ops[i]);
      if (!problem.empty()) return fmt::format("op #{} {}: {}", i, print(graph_, graph_.ops[i]), problem);
    }
    for (const auto& [queue, starts] : started_)
      if (!starts.empty())
        return fmt::format("nothing waits for {}, started on queue {}", starts[0]->definition->name, queue);
    for (const auto& output : graph_.outputs) {
      if (!valid(output.value) || !defined_[index(output.value)])
        return fmt::format("output {} is not defined", output.name);
      const Value& value = graph_[output.value];
      if (value.space != Space::device || staging_[index(output.value)])
        return fmt::format("output {} is {}", output.name,
                           value.space != Space::device ? "in host memory" : "a staging value");
      if (stage_ >= Stage::placed && value.pinned && !(*value.pinned == value.layout))
        return fmt::format("output {} is {}, pinned to {}", output.name, layout_text(value.layout),
                           layout_text(*value.pinned));
    }
    return "";
  }

 private:
  static std::size_t index(ValueId id) { return static_cast<std::size_t>(id); }
  bool valid(ValueId id) const { return id >= 0 && index(id) < graph_.values.size(); }
  std::string layout_text(const Layout& layout) const { return layout.text(graph_.mesh); }

  std::string check(const Op& op) {
    if (!op.definition || !op.signature) return "no definition";
    for (ValueId operand : op.operands)
      if (!valid(operand) || !defined_[index(operand)])
        return fmt::format("operand %{} is used before it is defined", operand);
    for (ValueId result : op.results) {
      if (!valid(result)) return "a result has no value";
      if (defined_[index(result)]++) return fmt::format("%{} is defined twice", result);
    }
    if (auto problem = check_half(op); !problem.empty()) return problem;
    if (auto problem = check_shapes(op); !problem.empty()) return problem;
    if (auto problem = mark_problem(graph_, op); !problem.empty()) return problem;
    if (rounds_partial_sum(op))
      return "rounds a partial sum; only casts made for gradient_reduce_dtype and gradient_dtype may";
    if (stage_ < Stage::placed) return "";
    for (ValueId result : op.results)
      if (auto problem = check_layout(result, op.definition->communication || op.definition->pointwise);
          !problem.empty())
        return problem;
    return op.definition->communication ? check_communication(op) : check_rule(op);
  }

  // Spaces of operands and results; of the halves of pairs, that starts and waits belong together, and that waits come
  // in the order of their starts: a queue finishes nothing before what came to it earlier.
  std::string check_half(const Op& op) {
    const OpDefinition& definition = *op.definition;
    const bool waits = definition.half == Half::wait;
    std::size_t staged = 0;  // leading operands of a wait that are staging values
    if (waits) {
      std::vector<const Op*>& starts = started_[definition.queue];
      if (starts.empty()) return fmt::format("nothing was started on queue {}", definition.queue);
      const Op& start = *starts.front();
      std::vector<ValueId> expected = start.results;
      expected.insert(expected.end(), start.operands.begin(), start.operands.end());
      if (pair_name(start) != pair_name(op) || expected != op.operands || !(start.attributes == op.attributes))
        return fmt::format("the oldest start on queue {} that nothing has waited for is another: {}", definition.queue,
                           print(graph_, start));
      staged = start.results.size();
      starts.erase(starts.begin());
    }
    for (std::size_t i = 0; i < op.operands.size(); ++i) {
      const ValueId operand = op.operands[i];
      if (i >= staged && staging_[index(operand)])
        return fmt::format("operand %{} is a staging value, which only its wait reads", operand);
      if (auto problem = check_space(operand, i < staged ? definition.to : definition.from); !problem.empty())
        return problem;
    }
    for (const ValueId result : op.results)
      if (auto problem = check_space(result, definition.to); !problem.empty()) return problem;
    if (definition.half != Half::start) return "";
    for (const ValueId result : op.results) staging_[index(result)] = 1;
    started_[definition.queue].push_back(&op);
    return "";
  }
  std::string check_space(ValueId id, Space space) const {
    if (graph_[id].space == space) return "";
    return fmt::format("%{} is in {} memory, it must be in {} memory", id, name_of(graph_[id].space), name_of(space));
  }

  // A sum over ranks that goes on as one, in fewer bits: each rank's part is rounded by itself.
  bool rounds_partial_sum(const Op& op) const {
    if (op.is("cast") && (op.attributes.integer("for_reduction") || op.attributes.integer("for_accumulation")))
      return false;
    for (ValueId operand : op.operands)
      for (ValueId result : op.results)
        if ((graph_[operand].layout.partial & graph_[result].layout.partial) && is_floating(graph_[operand].dtype) &&
            size_of(graph_[result].dtype) < size_of(graph_[operand].dtype))
          return true;
    return false;
  }

  std::string check_shapes(const Op& op) const {
    const Signature& signature = *op.signature;
    if (signature.operands.size() != op.operands.size() || signature.results.size() != op.results.size())
      return "number of operands or results differs from the signature";
    std::array<std::int64_t, 128> size;
    size.fill(-1);
    const auto bind = [&](const std::string& letters, ValueId id) -> std::string {
      const Shape& shape = graph_[id].shape;
      if (letters.size() != shape.size())
        return fmt::format("%{} has {} dimensions, the signature says '{}'", id, shape.size(), letters);
      for (std::size_t k = 0; k < shape.size(); ++k) {
        auto& entry = size[static_cast<std::size_t>(letters[k])];
        if (entry >= 0 && entry != shape[k])
          return fmt::format("letter {} is both {} and {}", letters[k], entry, shape[k]);
        entry = shape[k];
      }
      return "";
    };
    for (std::size_t i = 0; i < op.operands.size(); ++i) {
      if (signature.paired) size.fill(-1);
      if (auto problem = bind(signature.operands[i], op.operands[i]); !problem.empty()) return problem;
      if (!signature.paired) continue;
      const std::size_t result = i % std::max<std::size_t>(1, op.results.size());
      if (auto problem = bind(signature.results[result], op.results[result]); !problem.empty()) return problem;
    }
    for (std::size_t i = 0; i < op.results.size() && !signature.paired; ++i)
      if (auto problem = bind(signature.results[i], op.results[i]); !problem.empty()) return problem;
    if (!op.definition->blocks.empty()) {
      const std::int64_t elements = element_count(graph_[op.operands[0]].shape), wanted = moment_blocks(elements),
                         blocks = size[static_cast<std::size_t>(op.definition->blocks[0])];
      if (blocks != wanted)
        return fmt::format("letter {} is {}, but {} elements are {} blocks", op.definition->blocks, blocks, elements,
                           wanted);
    }
    return "";
  }

  std::string check_layout(ValueId id, bool may_pad) const {
    const Value& value = graph_[id];
    const Layout& layout = value.layout;
    if (layout.dimensions.size() != value.shape.size())
      return fmt::format("%{}: layout and shape differ in dimensions", id);
    AxisSet used = layout.flat.set();
    for (std::size_t d = 0; d < value.shape.size(); ++d) {
      const auto& dimension = layout.dimensions[d];
      if (used & dimension.axes.set())
        return fmt::format("%{}: an axis splits it twice in {}", id, layout_text(layout));
      used |= dimension.axes.set();
      const int ranks = graph_.mesh.count(dimension.axes);
      if (dimension.rotation < 0 || dimension.rotation >= std::max(1, ranks))
        return fmt::format("%{}: rotation out of range", id);
      if (!may_pad && value.shape[d] % ranks)
        return fmt::format("%{}: dimension {} of size {} does not divide over {} ranks", id, d, value.shape[d], ranks);
    }
    if (!layout.flat.empty() && used != layout.flat.set())
      return fmt::format("%{}: both flat and split by dimensions in {}", id, layout_text(layout));
    if (used & layout.partial)
      return fmt::format("%{}: an axis both splits it and sums it in {}", id, layout_text(layout));
    return "";
  }

  std::string check_communication(const Op& op) const {
    if (op.operands.empty()) return "moves nothing";
    if (op.operands.size() > 1 && (op.is("reshard") || op.is("slice")))
      return "moves several values; only collectives do";
    const std::string_view name = pair_name(op);
    for (std::size_t i = 0; i < op.results.size(); ++i) {
      const ValueId operand = moved_operand(op, i);
      if (auto problem = check_move(op, graph_[operand], graph_[op.results[i]]); !problem.empty())
        return op.results.size() == 1 ? problem : fmt::format("%{}: {}", operand, problem);
      if ((name == "reduce_scatter" || name == "all_reduce") &&
          graph_[operand].dtype != graph_[moved_operand(op, 0)].dtype)
        return "sums values of different dtypes";
      if (op.definition->half != Half::wait) continue;
      const Value &staging = graph_[op.operands[i]], &result = graph_[op.results[i]];
      if (staging.dtype != result.dtype || !(staging.layout == result.layout))
        return fmt::format("staging value %{} is {} as {}, result %{} {} as {}", op.operands[i],
                           layout_text(staging.layout), name_of(staging.dtype), op.results[i],
                           layout_text(result.layout), name_of(result.dtype));
    }
    return "";
  }

  std::string check_move(const Op& op, const Value& from, const Value& to) const {
    if (from.dtype != to.dtype) return "changes the dtype";
    try {
      if (op.is("reshard")) {
        if (stage_ >= Stage::lowered) return "a reshard is left after lowering";
        Layout layout = from.layout;
        while (auto step = next_layout_change(layout, to.layout, from.shape, graph_.mesh)) layout = step->after;
        return "";
      }
      const auto step = next_layout_change(from.layout, to.layout, from.shape, graph_.mesh);
      if (!step || pair_name(op) != step->op || !(step->after == to.layout) ||
          op.attributes.axes("axes") != step->axes || op.attributes.integer("dimension", -1) != step->dimension ||
          op.attributes.integer("split", -1) != step->split || op.attributes.integer("by", 0) != step->by)
        return fmt::format("this collective does not lead from {} to {}", layout_text(from.layout),
                           layout_text(to.layout));
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }

  std::string check_rule(const Op& op) const {
    std::vector<Layout> have;
    for (ValueId operand : op.operands) have.push_back(graph_[operand].layout);
    const Rule rule = layout_rule(graph_, op, have);
    for (std::size_t i = 0; i < have.size(); ++i)
      if (!(rule.operands[i] == have[i]))
        return fmt::format("operand {} is {}, the rule needs {}", i, layout_text(have[i]),
                           layout_text(rule.operands[i]));
    for (std::size_t i = 0; i < op.results.size(); ++i) {
      const Layout& layout = graph_[op.results[i]].layout;
      if (!(rule.results[i] == layout))
        return fmt::format("result {} is {}, the rule gives {}", i, layout_text(layout), layout_text(rule.results[i]));
    }
    return "";
  }

  const Graph& graph_;
  const Stage stage_;
  std::vector<char> defined_;
  std::vector<char> staging_;                                           // by value
  std::map<std::string, std::vector<const Op*>, std::less<>> started_;  // by queue: not waited for yet
};

}  // namespace

std::string verify(const Graph& graph, Stage stage) {
  return Verifier(graph, stage).run();
}

}  // namespace longhaul
