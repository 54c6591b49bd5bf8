// expand_window: an attention whose queries and keys are split over the same axes, and whose window reaches only some
// rows of the other ranks' blocks, becomes ordinary ops: those rows are taken, shifted to the ranks that need them,
// laid before a rank's own, and attended to as one block. In a contiguous order that is the halo: the last window − 1
// rows of a piece, of several pieces when the window is longer than one. Backward the rows' gradients go home, in
// float32, and are added. Ops marked `keeps_keys` have kept the rows for it; the others fetch them again.
#include <map>

#include "base/error.h"
#include "ir/rewrite.h"
#include "passes/pass.h"
#include "passes/token_order.h"

namespace longhaul::passes {
namespace {

// The letters of rows: b is the batch, g and d stand behind.
constexpr std::string_view row_letters = "tuvwxyzacefhijklmnopqrs";

class WindowExpansion {
 public:
  WindowExpansion(Graph& graph, const PassContext& context)
      : graph_(graph), context_(context), builder_(graph, "expand_window") {
    builder_.place_results(true);
  }

  void run() {
    rewrite(builder_, [&](Op& op) {
      const bool forward = op.is("attention");
      const auto* parts = forward || op.is("attention_gradient") ? parts_of(op) : nullptr;
      if (!parts)
        graph_.ops.push_back(std::move(op));
      else if (forward)
        expand_forward(op, *parts);
      else
        expand_backward(op, *parts);
    });
  }

 private:
  int blocks(const Op& op) const { return graph_.mesh.count(op.attributes.split().axes('t')); }

  // Which rows of the other blocks the op needs; null when it is not for this pass.
  const std::vector<BlockRows>* parts_of(const Op& op) {
    const std::int64_t window = op.attributes.integer("window"), keys = graph_[op.operands[1]].shape[1];
    if (window == 0 || op.attributes.split().axes('t').empty()) return nullptr;
    const auto [found, added] = parts_.try_emplace({keys, window, blocks(op)});
    if (added)
      found->second = reached_rows(context_.options.placement.token_order,
                                   order_ranks(graph_.mesh, context_.options.placement), keys, blocks(op), window);
    return found->second ? &*found->second : nullptr;
  }

  // "bXgd" or "bX" for the row letter X.
  std::string letters(ValueId value, char rows) const {
    return graph_[value].shape.size() == 2 ? std::string("b") + rows : std::string("b") + rows + "gd";
  }
  Shape with_rows(ValueId value, std::int64_t rows) const {
    Shape shape = graph_[value].shape;
    shape[1] = rows;
    return shape;
  }

  ValueId rows_of(ValueId value, std::int64_t from, std::int64_t rows, int blocks) {
    if (graph_[value].shape[1] == rows * blocks) return value;
    return builder_.one("take_rows", {value}, {{"from", from}, {"blocks", std::int64_t{blocks}}},
                        {.signature = letters(value, 't') + "->" + letters(value, 'u'),
                         .result_shapes = {with_rows(value, rows * blocks)},
                         .name = graph_[value].name});
  }

  ValueId rotated(ValueId value, int step) {
    Layout layout = graph_[value].layout;
    layout.dimensions[1].rotation = step;
    return builder_.reshard(value, layout);
  }

  // The part as the ranks that need it hold it.
  ValueId received(ValueId value, const BlockRows& part, int blocks, bool kept) {
    if (!kept) return rotated(rows_of(value, part.from, part.rows, blocks), part.step);
    const auto [found, added] = kept_.try_emplace({value, part.step, part.from, part.rows}, no_value);
    if (added) found->second = rotated(rows_of(value, part.from, part.rows, blocks), part.step);
    return found->second;
  }

  // Everything that a rank's queries may reach: the parts, then its own block.
  ValueId reached(ValueId own, const std::vector<BlockRows>& parts, int blocks, bool kept) {
    if (parts.empty()) return own;
    std::vector<ValueId> pieces;
    std::vector<double> steps;
    for (const BlockRows& part : parts) {
      pieces.push_back(received(own, part, blocks, kept));
      steps.push_back(part.step);
    }
    pieces.push_back(own);
    steps.push_back(0);
    while (pieces.size() > 1) {  // more than once only when letters run out
      const auto n = static_cast<std::ptrdiff_t>(std::min(pieces.size(), row_letters.size() - 1));
      std::string signature;
      std::int64_t rows = 0;
      for (std::size_t i = 0; i < static_cast<std::size_t>(n); ++i) {
        signature += (i ? "," : "") + letters(pieces[i], row_letters[i]);
        rows += graph_[pieces[i]].shape[1];
      }
      const ValueId joined = builder_.one(
          "join_rows", {pieces.begin(), pieces.begin() + n},
          {{"steps", std::vector<double>(steps.begin(), steps.begin() + n)}, {"blocks", std::int64_t{blocks}}},
          {.signature = signature + "->" + letters(own, row_letters[static_cast<std::size_t>(n)]),
           .result_shapes = {with_rows(own, rows)},
           .name = graph_[own].name});
      pieces.erase(pieces.begin(), pieces.begin() + n);
      steps.erase(steps.begin(), steps.begin() + n);
      pieces.insert(pieces.begin(), joined);
      steps.insert(steps.begin(), 0);
    }
    return pieces[0];
  }

  std::vector<ValueId> operands_of(const Op& op, const std::vector<BlockRows>& parts) {
    const bool kept = op.attributes.integer("keeps_keys") != 0;
    std::vector<ValueId> operands = op.operands;
    for (const std::size_t i : {1u, 2u}) operands[i] = reached(op.operands[i], parts, blocks(op), kept);
    auto& index = indices_.try_emplace({op.operands[4], &parts}, no_value).first->second;  // the same in every layer
    if (index == no_value) index = reached(op.operands[4], parts, blocks(op), true);
    operands[4] = index;
    return operands;
  }

  Attributes attributes_of(const Op& op) const {
    Attributes attributes = op.attributes;
    attributes.erase("keeps_keys");
    attributes.set("step", std::int64_t{0});
    attributes.set("blocks", std::int64_t{blocks(op)});
    return attributes;
  }

  // Result i of the op made last becomes `result`, which users know already.
  void define(std::size_t i, ValueId result) {
    ValueId& made = graph_.ops.back().results[i];
    LONGHAUL_CHECK(graph_[made].layout == graph_[result].layout && graph_[made].dtype == graph_[result].dtype &&
                       graph_[made].shape == graph_[result].shape,
                   "expand_window changed a value");
    made = result;
  }

  void expand_forward(const Op& op, const std::vector<BlockRows>& parts) {
    const auto operands = operands_of(op, parts);
    builder_.emit("attention_block", operands, attributes_of(op),
                  {.result_types = {graph_[op.results[0]].dtype, graph_[op.results[1]].dtype}});
    define(0, op.results[0]);
    define(1, op.results[1]);
  }

  void expand_backward(const Op& op, const std::vector<BlockRows>& parts) {
    const auto operands = operands_of(op, parts);
    const DType narrow = graph_[op.results[1]].dtype, wide = parts.empty() ? narrow : master_dtype(narrow);
    const auto gradients = builder_.emit("attention_block_gradient", operands, attributes_of(op),
                                         {.result_types = {graph_[op.results[0]].dtype, wide, wide}});
    define(0, op.results[0]);
    if (parts.empty()) {
      define(1, op.results[1]);
      define(2, op.results[2]);
      return;
    }
    for (const std::size_t i : {1u, 2u}) bring_home(gradients[i], op.results[i], parts, blocks(op));
  }

  // `all` are the gradients of what `reached` laid together; each part's is added to the rows that it was taken from.
  void bring_home(ValueId all, ValueId result, const std::vector<BlockRows>& parts, int blocks) {
    const std::int64_t own = graph_[result].shape[1] / blocks;
    std::int64_t from = 0;
    std::vector<ValueId> home;
    for (const BlockRows& part : parts) {
      home.push_back(rotated(rows_of(all, from, part.rows, blocks), blocks - part.step));
      from += part.rows;
    }
    ValueId sum = rows_of(all, from, own, blocks);
    for (std::size_t i = 0; i < parts.size(); ++i)
      sum = builder_.one(
          "add_rows", {sum, home[i]},
          {{"from", parts[i].from}, {"step", std::int64_t{blocks - parts[i].step}}, {"blocks", std::int64_t{blocks}}},
          {.signature = letters(sum, 't') + "," + letters(sum, 'u') + "->" + letters(sum, 't'),
           .name = graph_[result].name});
    if (graph_[sum].dtype != graph_[result].dtype) builder_.cast(sum, graph_[result].dtype);
    define(0, result);
  }

  Graph& graph_;
  const PassContext& context_;
  Builder builder_;
  std::map<std::tuple<std::int64_t, std::int64_t, int>, std::optional<std::vector<BlockRows>>> parts_;
  std::map<std::tuple<ValueId, int, std::int64_t, std::int64_t>, ValueId> kept_;
  std::map<std::pair<ValueId, const void*>, ValueId> indices_;
};

}  // namespace

void expand_window(Graph& graph, const PassContext& context) {
  WindowExpansion(graph, context).run();
}

}  // namespace longhaul::passes
