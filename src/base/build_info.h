// What this program was built from and with.
#pragma once
#include <string>

namespace longhaul {

struct BuildInfo {
  std::string version;    ///< "0.1.0"
  std::string commit;     ///< of the source folder, with "+" when files differed from it; "unknown" outside of git
  std::string compiler;   ///< "GNU 12.2.0"
  std::string build;      ///< "Release", and sanitizers
  std::string back_ends;  ///< "cpu, threads, mpi"
};

const BuildInfo& build_info();

/// The longhaul program knows its commit; other programs that link the library do not, and theirs is "unknown". Before
/// any rank starts.
void set_build_commit(const std::string& commit);

}  // namespace longhaul
