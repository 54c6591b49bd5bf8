// What --version prints.
#pragma once
#include <string>

namespace longhaul::cli {

/// Version and the back ends built in.
std::string version();

}  // namespace longhaul::cli
