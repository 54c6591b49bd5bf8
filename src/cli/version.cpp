#include "cli/version.h"

#include <fmt/format.h>

#include "base/build_info.h"
#include "comm/launch.h"
#include "run/target.h"

namespace longhaul::cli {

std::string version() {
  const BuildInfo& build = build_info();
  std::string text = fmt::format("longhaul {} (commit {}; {}, {}; built in: {})", build.version, build.commit,
                                 build.compiler, build.build, build.back_ends);
  for (const auto& [name, library] : library_versions()) text += fmt::format("\n{} {}", name, library);
  if (mpi_available()) text += "\n" + mpi_library();
  return text;
}

}  // namespace longhaul::cli
