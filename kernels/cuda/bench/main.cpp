// longhaul_bench_kernels: the kernel driver as a program of its own, for machines that have only the bundle.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>

#include "kernels/cuda/bench/bench.h"

int main(int count, char** values) {
  using namespace longhaul;
  CLI::App app("check and time the device kernels");
  bench::Options options;
  bench::add_options(app, options, "cuda", "cuda, emulator (no GPU needed) or plain (loops on the host)");
  CLI11_PARSE(app, count, values);
  try {
    return bench::run(options, {{"cuda", [] { return cuda::bench::make_device(cuda::Backend::cuda); }},
                                {"emulator", [] { return cuda::bench::make_device(cuda::Backend::emulator); }},
                                {"plain", cuda::bench::make_plain_device}});
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 2;
  }
}
