// The graph: values with global shapes and layouts, ops in execution order. It is the only thing that passes read and
// write.
#pragma once
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/dtype.h"
#include "ir/layout.h"
#include "ir/mesh.h"
#include "ir/signature.h"
#include "ir/state.h"

namespace longhaul {

struct OpDefinition;

using ValueId = std::int32_t;
inline constexpr ValueId no_value = -1;

enum class Phase : std::uint8_t { forward, backward, update };
std::string_view name_of(Phase phase);

/// Which memory holds a value: that of the device that computes, or its host's.
enum class Space : std::uint8_t { device, host };
inline constexpr std::size_t spaces = 2;
std::string_view name_of(Space space);

struct Value {
  std::string name;  // for people; inputs' names are their identity
  Shape shape;       // global
  DType dtype = DType::float64;
  Layout layout;
  ValueId primal = no_value;     // of a gradient: the value that it is the gradient of
  std::optional<Layout> pinned;  // partition must end up here
  Role role = Role::intermediate;
  Space space = Space::device;
};

/// How letters of an op's signature are to be split, by letter; an empty list of axes keeps a letter whole. A mark of
/// this kind, the attribute `split`, goes before what the op's operands have (layout_rule).
class LetterSplits {
 public:
  LetterSplits() = default;
  LetterSplits(std::initializer_list<std::pair<char, DimensionLayout>> list) {
    for (const auto& [letter, split] : list) set(letter, split);
  }
  void set(char letter, const DimensionLayout& split);
  /// Null for a letter without a mark.
  const DimensionLayout* find(char letter) const;
  /// The axes of a letter; none when it is whole or has no mark.
  AxisList axes(char letter) const;
  bool empty() const { return list_.empty(); }
  auto begin() const { return list_.begin(); }
  auto end() const { return list_.end(); }
  bool operator==(const LetterSplits&) const = default;
  /// "{h: a, s: -, t: b+1}" for axes a and b, letters in their order.
  std::string text(const Mesh& mesh) const;

 private:
  std::vector<std::pair<char, DimensionLayout>> list_;  // sorted by letter
};

using Attribute = std::variant<std::int64_t, double, std::string, std::vector<double>, AxisList, LetterSplits>;

/// A small sorted map.
class Attributes {
 public:
  Attributes() = default;
  Attributes(std::initializer_list<std::pair<std::string, Attribute>> list) {
    for (auto& [name, value] : list) set(name, value);
  }
  void set(std::string_view name, Attribute value);
  void erase(std::string_view name);
  const Attribute* find(std::string_view name) const;
  bool has(std::string_view name) const { return find(name) != nullptr; }
  /// The value, or the fallback when absent; std::logic_error when it has another type (an integer serves as a number).
  std::int64_t integer(std::string_view name, std::int64_t fallback = 0) const;
  double number(std::string_view name, double fallback = 0) const;
  std::string text(std::string_view name, std::string_view fallback = "") const;
  const std::vector<double>& numbers(std::string_view name) const;
  AxisList axes(std::string_view name) const;
  /// The attribute `split`; empty when absent.
  const LetterSplits& split() const;
  const std::vector<std::pair<std::string, Attribute>>& all() const { return list_; }
  bool operator==(const Attributes&) const = default;

 private:
  std::vector<std::pair<std::string, Attribute>> list_;
};

struct Op {
  const OpDefinition* definition = nullptr;
  std::shared_ptr<const Signature> signature;
  std::vector<ValueId> operands;
  std::vector<ValueId> results;
  Attributes attributes;
  Phase phase = Phase::forward;
  std::int32_t layer = -1;  // -1: outside the layers
  std::string made_by;      // the pass that put it there

  bool is(std::string_view name) const;
};

/// An input or output of a program. Its name is that of its buffer: one buffer in all programs of a run.
struct Binding {
  Binding(std::string buffer, ValueId bound) : name(std::move(buffer)), value(bound) {}
  Binding(StateKey key, ValueId bound) : name(name_of(key)), value(bound), state(std::move(key)) {}
  bool is(Role role) const { return state && state->role == role; }

  std::string name;
  ValueId value = no_value;
  std::optional<StateKey> state;  // none: data, a scalar, or a number that the program reports
};

struct Graph {
  std::string name;
  Mesh mesh;
  std::vector<Value> values;
  std::vector<Op> ops;
  std::vector<Binding> inputs;
  std::vector<Binding> outputs;

  Value& operator[](ValueId id) { return values[static_cast<std::size_t>(id)]; }
  const Value& operator[](ValueId id) const { return values[static_cast<std::size_t>(id)]; }

  ValueId add_value(std::string name, Shape shape, DType dtype);
  /// Data or a scalar.
  ValueId add_input(const std::string& name, Shape shape, DType dtype, Role role);
  ValueId add_input(const StateKey& key, Shape shape, DType dtype);
  /// The bound value, or no_value.
  ValueId input(std::string_view name) const;
  ValueId output(std::string_view name) const;
  /// A shared parsed signature.
  std::shared_ptr<const Signature> signature(std::string_view text, const std::vector<ValueId>& operands);

 private:
  struct SignatureCache;
  std::shared_ptr<SignatureCache> signatures_;
};

/// For every value, the index of the op that defines it, or -1 for inputs.
std::vector<std::int32_t> definitions(const Graph& graph);
/// For every value, the indices of the ops that use it, in order.
std::vector<std::vector<std::int32_t>> uses(const Graph& graph);
/// What one rank stores of a value, in bytes.
std::int64_t local_bytes(const Graph& graph, ValueId id);

// ---- text form (docs/ir.md): one line an op; parse(print(g)) equals g
std::string print(const Graph& graph);
std::string print(const Graph& graph, const Op& op);
/// Throws Error with the line number.
Graph parse_graph(std::string_view text);

/// GraphViz text, one box an op, edges labelled with layouts.
std::string print_dot(const Graph& graph);

}  // namespace longhaul
