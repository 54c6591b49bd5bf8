// What the compiler knows of an op. One file in src/ops defines one op (and the op of its gradient); the rest of the
// compiler asks here.
#pragma once
#include <array>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "base/moment_block.h"
#include "ir/graph.h"

namespace longhaul {

class Builder;

/// Whether an op is half of a pair. `X.start` hands work to a queue and returns at once: its results, the staging
/// values, are being written from then on and its operands being read. `X.wait` returns when that is done; its operands
/// are the staging values and then those of the start, so that both keep their memory until then, and nothing but it
/// reads a staging value. A queue works in the order of its starts, and waits come in that order too.
enum class Half : std::uint8_t { none, start, wait };

/// The layout of each signature letter.
class Factors {
 public:
  DimensionLayout& operator[](char letter) { return letters_[static_cast<std::size_t>(letter)]; }
  const DimensionLayout& operator[](char letter) const { return letters_[static_cast<std::size_t>(letter)]; }

 private:
  std::array<DimensionLayout, 128> letters_{};
};

/// What computes an op's flops: machines do each at a rate of its own. `elements`: one after the other, as memory
/// brings them.
enum class Arithmetic : std::uint8_t { elements, products, attention, attention_gradient };

struct OpDefinition {
  std::string name;
  /// See Signature::parse. Empty: every op states its own (einsum).
  std::string signature;
  /// Letters that no layout may split: the op needs them whole (a norm's row, the vocabulary under a softmax).
  std::string whole = "";
  /// Letters that only a mark splits (the attribute `split`), whatever operands have: attention's heads, queries and
  /// keys, over which ranks must agree before they can compute anything.
  std::string only_marked = "";
  /// All contracted letters must be whole as well, because an addend joins the product: it would be added once a rank.
  bool contracted_whole = false;
  /// Element by element: flat shards pass through, and padded chunks are harmless.
  bool pointwise = false;
  /// Of a pointwise op: the letter of operands and results that have an element for each `moment_block` elements of the
  /// others, in row-major order, the last block being what is left. Flat shards are then whole blocks.
  std::string blocks = "";
  /// Linear in its operands together: a partial sum passes when all operands carry it.
  bool linear = false;
  /// Moves data between layouts and is the identity on the global value (reshard and what it is lowered to).
  bool communication = false;
  Half half = Half::none;
  /// Of a half: the queue that does the work.
  std::string queue = "";
  /// Of a half: where the operands of the start lie, and where staging values and the results of the wait do. Every
  /// other op has its operands and results on the device.
  Space from = Space::device, to = Space::device;
  /// dtypes of the results; null: that of the first floating operand.
  std::vector<DType> (*result_types)(const Graph&, const Op&) = nullptr;
  /// Result sizes of letters that occur in no operand come from the builder; everything else from the signature.
  /// The op's own choice of factors (rows of blocks, whose operands are rotated); null: by point 1 of the rule.
  std::function<Factors(const Graph&, const Op&, const std::vector<Layout>& have)> factors = nullptr;
  /// One gradient per operand (no_value: none), given one per result (no_value: that result has no gradient).
  std::function<std::vector<ValueId>(Builder&, const Op&, const std::vector<ValueId>& result_gradients)> gradient =
      nullptr;
  /// Floating-point operations on one rank, given its local operand and result shapes; null: one a result element.
  std::function<double(const Graph&, const Op&, const Mesh&)> flops = nullptr;
  Arithmetic arithmetic = Arithmetic::elements;
  /// Bytes that a rank reads and writes; null: operands and results, each once.
  double (*moved)(const Graph&, const Op&) = nullptr;
  /// Whether the backward pass may make its results again instead of finding them kept: not those of attention, which
  /// cost most of a long sequence's step.
  bool recomputable = true;
  /// (result, operand) pairs that may share one buffer when the operand is used no more (may_share_buffer).
  std::vector<std::pair<int, int>> in_place = {};
  /// An operand, laid out as the first result, that the result begins with: a partial sum where the result is one.
  int onto = -1;
  /// Results that a run of low precision keeps in the dtype of its masters (master_dtype): statistics, tables, state.
  std::vector<int> master_results = {};
  /// (result, operand) pairs: partition brings the result to where the operand lives, for whoever comes next.
  std::vector<std::pair<int, int>> result_like = {};
};

/// The definition of that name; null when there is none.
const OpDefinition* find_op(std::string_view name);
/// The start of what can run in two halves, itself included; null of a wait and of all other ops.
const OpDefinition* start_of(const OpDefinition& definition);
/// All definitions, by name.
std::vector<const OpDefinition*> all_ops();

/// The name without the half: "all_gather" of all_gather, all_gather.start and all_gather.wait.
std::string_view pair_name(const Op& op);
/// Whether ranks exchange something by it: not the wait of a collective, whose start does.
bool communicates(const Op& op);
/// Operand `i` of what a half carries out: of a wait those of its start, behind the staging values; of any other op its
/// own.
ValueId moved_operand(const Op& op, std::size_t i);
/// Whether the result may have the operand's buffer when that is used no more: in_place, and of a wait each staging
/// value.
bool may_share_buffer(const Op& op, ValueId result, ValueId operand);

/// A static object of this class in src/ops/NAME.cpp adds an op.
struct OpRegistration {
  explicit OpRegistration(OpDefinition definition);
};

/// What the layout rule says of an op whose operands are laid out as `have`: what its operands must be, and what its
/// results then are.
struct Rule {
  std::vector<Layout> operands;
  std::vector<Layout> results;
};

/// The one layout rule.
///  1. A letter that the op's mark names (the attribute `split`) is split as it says, or whole. Any other takes the
///  first
///     split that an operand has for it, unless it must be whole, only a mark splits it, its size does not divide
///     (pointwise ops may pad), or an axis would split two letters.
///  2. Operands must have those layouts; results get them.
///  3. An axis that splits a contracted letter (in an operand, not in the result) makes the result a partial sum over
///  that axis, unless the
///     axis also splits the result.
///  4. Pointwise ops pass flat shards (of whole blocks, where a letter counts them); linear ops pass partial sums that
///  all operands carry.
/// A graph is legal when rule(have).operands == have for every op: partition inserts the reshards that make it so, the
/// verifier checks it.
Rule layout_rule(const Graph& graph, const Op& op, const std::vector<Layout>& have);

/// What is wrong with the op's mark; "" when nothing is or it has none. A mark names letters of operands, and splits
/// none that the op needs whole, that an addend forbids, or whose size does not divide.
std::string mark_problem(const Graph& graph, const Op& op);

}  // namespace longhaul
