// Compiled anew with every commit, and so by itself.
#include "longhaul_commit.h"

namespace longhaul::cli {

const char* commit();

/// The commit that the program was built from.
const char* commit() {
  return LONGHAUL_COMMIT;
}

}  // namespace longhaul::cli
