// How a failure names its rank.
#pragma once
#include <string>

namespace longhaul {

/// "rank 2: message"; a message that already names this rank stays as it is.
std::string with_rank(int rank, const std::string& message);

}  // namespace longhaul
