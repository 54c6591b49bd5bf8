// The table of ops that the objects of src/ops fill.
#include <map>

#include "base/error.h"
#include "ir/op_definition.h"

namespace longhaul {
namespace {

std::map<std::string, OpDefinition, std::less<>>& registry() {
  static std::map<std::string, OpDefinition, std::less<>> table;  // filled before main, read-only afterwards
  return table;
}

}  // namespace

OpRegistration::OpRegistration(OpDefinition definition) {
  const std::string name = definition.name;
  LONGHAUL_CHECK(registry().emplace(name, std::move(definition)).second, "op {} is defined twice", name);
}

const OpDefinition* find_op(std::string_view name) {
  const auto it = registry().find(name);
  return it == registry().end() ? nullptr : &it->second;
}

const OpDefinition* start_of(const OpDefinition& definition) {
  if (definition.half == Half::start) return &definition;
  return definition.half == Half::wait ? nullptr : find_op(definition.name + ".start");
}

std::string_view pair_name(const Op& op) {
  const std::string_view name = op.definition->name;
  return op.definition->half == Half::none ? name : name.substr(0, name.rfind('.'));
}

bool communicates(const Op& op) {
  return op.definition->communication && op.definition->half != Half::wait;
}

ValueId moved_operand(const Op& op, std::size_t i) {
  return op.operands[op.definition->half == Half::wait ? op.results.size() + i : i];
}

bool may_share_buffer(const Op& op, ValueId result, ValueId operand) {
  if (op.definition->half == Half::wait) {
    for (std::size_t i = 0; i < op.results.size(); ++i)
      if (op.results[i] == result && op.operands[i] == operand) return true;
    return false;
  }
  for (const auto& [r, o] : op.definition->in_place)
    if (op.results[static_cast<std::size_t>(r)] == result && op.operands[static_cast<std::size_t>(o)] == operand)
      return true;
  return false;
}

std::vector<const OpDefinition*> all_ops() {
  std::vector<const OpDefinition*> all;
  for (const auto& [name, definition] : registry()) all.push_back(&definition);
  return all;
}

}  // namespace longhaul
