// What kernels/cuda/gpu.h includes when no CUDA compiler reads it.
#pragma once
#include "tests/gpu_emulator/emulator/primitives.h"
