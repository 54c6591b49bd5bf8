// The GPU primitives that our kernels are written in, inline PTX under nvcc (ptx.h, ptx_hopper.h), HIP under clang
// for AMD GPUs (hip.h, all but Hopper's), an emulator under any other compiler (tests/gpu_emulator). Shared memory is
// reached only through 32-bit shared addresses and these functions, and global memory through global_load and
// global_store, so the emulator sees every access.
#pragma once
#include <cstddef>
#include <cstdint>

#ifdef __CUDACC__
#include "kernels/cuda/ptx.h"
#elif defined(__HIP__)
#include "kernels/cuda/hip.h"
#else
#include "gpu_emulator.h"  // tests/gpu_emulator, on the include path of the emulator's build alone
#endif
