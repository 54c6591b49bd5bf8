// longhaul_bench_kernels: the kernel driver as a program of its own, for machines that have only the bundle.
#include <cstdio>
#include <exception>

#include "kernels/cuda/bench/bench.h"

int main(int count, char** values) {
  try {
    return longhaul::cuda::bench::run({values + 1, values + count});
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 2;
  }
}
