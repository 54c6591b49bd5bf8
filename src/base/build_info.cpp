#include "base/build_info.h"

namespace longhaul {
namespace {

BuildInfo& info() {
  static BuildInfo one = {LONGHAUL_VERSION, "unknown", LONGHAUL_COMPILER, LONGHAUL_BUILD, LONGHAUL_BACKENDS};
  return one;
}

}  // namespace

const BuildInfo& build_info() {
  return info();
}

void set_build_commit(const std::string& commit) {
  info().commit = commit;
}

}  // namespace longhaul
