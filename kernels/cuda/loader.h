// Opens the device kernels on demand: longhaul links no CUDA library, starts on any host, and says why a back end is
// missing when it is asked for.
#pragma once
#include <string>

#include "kernels/cuda/api.h"

namespace longhaul::cuda {

enum class Backend { cuda, emulator };

/// The back end's functions, or null with the reason in `why_not`. The library is looked for at LONGHAUL_CUDA_LIBRARY
/// (for `cuda`), beside the program, in ../lib beside the program's folder, in the build tree, then wherever the
/// dynamic loader looks. Opened once a process; safe to call from several threads.
const Api* open_backend(Backend backend, std::string& why_not);
/// The same, with at least one device behind it; throws Error with the reason and what to do.
const Api& require_backend(Backend backend);

}  // namespace longhaul::cuda
