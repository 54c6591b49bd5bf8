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

std::vector<const OpDefinition*> all_ops() {
  std::vector<const OpDefinition*> all;
  for (const auto& [name, definition] : registry()) all.push_back(&definition);
  return all;
}

}  // namespace longhaul
