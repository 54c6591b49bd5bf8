#include "cli/version.h"

namespace longhaul::cli {

std::string version() {
  return "longhaul " LONGHAUL_VERSION " (built in: " LONGHAUL_BACKENDS ")";
}

}  // namespace longhaul::cli
