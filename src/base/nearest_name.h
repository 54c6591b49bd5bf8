// "Did you mean ...?" for mistyped keys.
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace longhaul {

/// The number of single-character insertions, deletions, replacements and swaps of neighbours that turn a into b.
std::size_t edit_distance(std::string_view a, std::string_view b);

/// The name nearest to `wanted`, or "" when none is near enough to be a typing error (more than a third of its letters
/// and more than two differ).
std::string nearest_name(std::string_view wanted, const std::vector<std::string>& names);

/// "a, b, c"; "nothing" for an empty list.
std::string join_names(const std::vector<std::string>& names);

}  // namespace longhaul
