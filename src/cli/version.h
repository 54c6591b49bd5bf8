// What --version prints.
#pragma once
#include <string>

namespace longhaul::cli {

/// Version, commit, compiler and the back ends built in, and a line for each library with its version.
std::string version();

}  // namespace longhaul::cli
