// Private to src/model: published model types that are not read, and why.
#pragma once
#include <string>
#include <string_view>

namespace longhaul {

/// A sentence on a model_type that is known and not read; empty for others.
std::string why_not_read(std::string_view model_type);

}  // namespace longhaul
