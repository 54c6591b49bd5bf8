#include "run/run_flops.h"

#include <set>
#include <string_view>

namespace longhaul {

FlopsPerToken flops_of(const RunSetup& setup) {
  std::set<std::string_view> trained;
  for (const auto& parameter : setup.request.options.meaning.parameters) trained.insert(parameter.name);
  return flops_per_token(setup.model.spec, setup.sequence,
                         [&](const std::string& name) { return trained.contains(name); });
}

}  // namespace longhaul
