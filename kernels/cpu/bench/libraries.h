// Libraries as a user would call them, for comparison: nothing of our kernels lies between.
#pragma once
#include <functional>
#include <string>

#include "kernels/cpu/matmul.h"

namespace longhaul::cpu::bench {

/// c = the problem, on `threads` threads, planned beforehand.
using LibraryMatmul = std::function<void(const void* a, const void* b, const void* bias, void* c)>;

/// "onednn": its matmul primitive, with its own scratch memory. "openblas": cblas_sgemm or cblas_dgemm, the bias added
/// by a loop beforehand. Empty when this build lacks the library, or the library the dtype.
LibraryMatmul library_matmul(const std::string& library, const MatmulProblem& problem, int threads);

}  // namespace longhaul::cpu::bench
