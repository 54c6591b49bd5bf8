#include "ir/graph.h"

#include <algorithm>
#include <map>
#include <unordered_map>

#include "base/error.h"
#include "ir/op_definition.h"

namespace longhaul {

std::string_view name_of(Space space) {
  return space == Space::device ? "device" : "host";
}

std::string_view name_of(Phase phase) {
  return phase == Phase::forward ? "forward" : phase == Phase::backward ? "backward" : "update";
}

namespace {
auto position(std::vector<std::pair<std::string, Attribute>>& list, std::string_view name) {
  return std::lower_bound(list.begin(), list.end(), name,
                          [](const auto& entry, std::string_view key) { return entry.first < key; });
}
}  // namespace

void Attributes::set(std::string_view name, Attribute value) {
  auto it = position(list_, name);
  if (it != list_.end() && it->first == name)
    it->second = std::move(value);
  else
    list_.insert(it, {std::string(name), std::move(value)});
}

void Attributes::erase(std::string_view name) {
  auto it = position(list_, name);
  if (it != list_.end() && it->first == name) list_.erase(it);
}

const Attribute* Attributes::find(std::string_view name) const {
  for (const auto& [key, value] : list_)
    if (key == name) return &value;
  return nullptr;
}

std::int64_t Attributes::integer(std::string_view name, std::int64_t fallback) const {
  const Attribute* value = find(name);
  if (!value) return fallback;
  LONGHAUL_CHECK(std::holds_alternative<std::int64_t>(*value), "attribute {} is no integer", name);
  return std::get<std::int64_t>(*value);
}

double Attributes::number(std::string_view name, double fallback) const {
  const Attribute* value = find(name);
  if (!value) return fallback;
  if (const auto* integer = std::get_if<std::int64_t>(value)) return static_cast<double>(*integer);
  LONGHAUL_CHECK(std::holds_alternative<double>(*value), "attribute {} is no number", name);
  return std::get<double>(*value);
}

std::string Attributes::text(std::string_view name, std::string_view fallback) const {
  const Attribute* value = find(name);
  if (!value) return std::string(fallback);
  LONGHAUL_CHECK(std::holds_alternative<std::string>(*value), "attribute {} is no text", name);
  return std::get<std::string>(*value);
}

const std::vector<double>& Attributes::numbers(std::string_view name) const {
  const Attribute* value = find(name);
  LONGHAUL_CHECK(value && std::holds_alternative<std::vector<double>>(*value), "attribute {} is no list of numbers",
                 name);
  return std::get<std::vector<double>>(*value);
}

AxisList Attributes::axes(std::string_view name) const {
  const Attribute* value = find(name);
  if (!value) return {};
  LONGHAUL_CHECK(std::holds_alternative<AxisList>(*value), "attribute {} is no list of axes", name);
  return std::get<AxisList>(*value);
}

const LetterSplits& Attributes::split() const {
  static const LetterSplits none;
  const Attribute* value = find("split");
  if (!value) return none;
  LONGHAUL_CHECK(std::holds_alternative<LetterSplits>(*value), "attribute split is none of letters");
  return std::get<LetterSplits>(*value);
}

void LetterSplits::set(char letter, const DimensionLayout& split) {
  const auto it = std::find_if(list_.begin(), list_.end(), [&](const auto& entry) { return entry.first >= letter; });
  if (it != list_.end() && it->first == letter)
    it->second = split;
  else
    list_.insert(it, {letter, split});
}

const DimensionLayout* LetterSplits::find(char letter) const {
  for (const auto& [key, split] : list_)
    if (key == letter) return &split;
  return nullptr;
}

AxisList LetterSplits::axes(char letter) const {
  const DimensionLayout* split = find(letter);
  return split ? split->axes : AxisList();
}

std::string LetterSplits::text(const Mesh& mesh) const {
  std::string text = "{";
  for (const auto& [letter, split] : list_) {
    text += fmt::format("{}{}: {}", text.size() > 1 ? ", " : "", letter, mesh.text(split.axes));
    if (split.rotation) text += fmt::format("+{}", split.rotation);
  }
  return text + "}";
}

bool Op::is(std::string_view name) const {
  return definition->name == name;
}

struct Graph::SignatureCache {
  std::unordered_map<std::string, std::shared_ptr<const Signature>> parsed;
};

std::shared_ptr<const Signature> Graph::signature(std::string_view text, const std::vector<ValueId>& operands) {
  if (!signatures_) signatures_ = std::make_shared<SignatureCache>();
  std::string key(text);
  std::vector<std::size_t> ranks;
  for (ValueId operand : operands) {
    ranks.push_back((*this)[operand].shape.size());
    key += static_cast<char>('0' + ranks.back());
  }
  auto& entry = signatures_->parsed[key];
  if (!entry) entry = std::make_shared<Signature>(Signature::parse(text, ranks));
  return entry;
}

ValueId Graph::add_value(std::string value_name, Shape shape, DType dtype) {
  Value value;
  value.name = std::move(value_name);
  value.layout = Layout::whole(shape.size());
  value.shape = std::move(shape);
  value.dtype = dtype;
  values.push_back(std::move(value));
  return static_cast<ValueId>(values.size()) - 1;
}

ValueId Graph::add_input(const std::string& input_name, Shape shape, DType dtype, Role role) {
  LONGHAUL_CHECK(!is_state(role), "input {} of role {} has no parameter", input_name, name_of(role));
  const ValueId id = add_value(input_name, std::move(shape), dtype);
  (*this)[id].role = role;
  inputs.push_back({input_name, id});
  return id;
}

ValueId Graph::add_input(const StateKey& key, Shape shape, DType dtype) {
  const ValueId id = add_value(name_of(key), std::move(shape), dtype);
  (*this)[id].role = key.role;
  inputs.push_back({key, id});
  return id;
}

namespace {
ValueId find_binding(const std::vector<Binding>& bindings, std::string_view name) {
  for (const auto& binding : bindings)
    if (binding.name == name) return binding.value;
  return no_value;
}
}  // namespace

ValueId Graph::input(std::string_view input_name) const {
  return find_binding(inputs, input_name);
}
ValueId Graph::output(std::string_view output_name) const {
  return find_binding(outputs, output_name);
}

std::vector<std::int32_t> definitions(const Graph& graph) {
  std::vector<std::int32_t> definition(graph.values.size(), -1);
  for (std::size_t i = 0; i < graph.ops.size(); ++i)
    for (ValueId result : graph.ops[i].results)
      definition[static_cast<std::size_t>(result)] = static_cast<std::int32_t>(i);
  return definition;
}

std::vector<std::vector<std::int32_t>> uses(const Graph& graph) {
  std::vector<std::vector<std::int32_t>> use(graph.values.size());
  for (std::size_t i = 0; i < graph.ops.size(); ++i)
    for (ValueId operand : graph.ops[i].operands)
      use[static_cast<std::size_t>(operand)].push_back(static_cast<std::int32_t>(i));
  return use;
}

std::int64_t local_bytes(const Graph& graph, ValueId id) {
  const Value& value = graph[id];
  return static_cast<std::int64_t>(size_of(value.dtype)) * local_count(value.shape, value.layout, graph.mesh);
}

}  // namespace longhaul
