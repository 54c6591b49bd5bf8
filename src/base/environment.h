// The one place that reads the environment. docs/environment.md lists what is read, and a test compares the two.
#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace longhaul {

struct EnvironmentVariable {
  std::string_view name;
  std::string_view meaning;
};

/// Every LONGHAUL_* variable that the program reads.
const std::vector<EnvironmentVariable>& environment_variables();

/// The value of a listed variable, or the fallback when it is unset or empty. Throws std::logic_error for an unlisted
/// name.
std::string environment(std::string_view name, std::string_view fallback = "");

/// Variables that others set and the program looks at besides.
const std::vector<EnvironmentVariable>& foreign_variables();

/// The value of a listed foreign variable; none when it is unset. Throws std::logic_error for an unlisted name.
std::optional<std::string> foreign_variable(std::string_view name);

/// Throws Error when the process environment holds a LONGHAUL_* variable that nothing reads (a typing error).
void refuse_unknown_environment();

}  // namespace longhaul
