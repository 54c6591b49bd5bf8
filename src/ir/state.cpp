#include "ir/state.h"

#include "base/error.h"

namespace longhaul {

std::string_view name_of(Role role) {
  static constexpr std::string_view names[roles] = {
      "intermediate", "data",          "scalar",      "parameter",    "compute_parameter", "gathered",
      "first_moment", "second_moment", "first_scale", "second_scale", "accumulator",       "gradient"};
  return names[static_cast<std::size_t>(role)];
}

std::string name_of(const StateKey& key) {
  LONGHAUL_CHECK(is_state(key.role) && !key.parameter.empty(), "state of role {} and parameter '{}'", name_of(key.role),
                 key.parameter);
  if (key.role == Role::parameter) return key.parameter;
  return fmt::format("{}.{}", key.role == Role::compute_parameter ? "compute" : name_of(key.role), key.parameter);
}

}  // namespace longhaul
