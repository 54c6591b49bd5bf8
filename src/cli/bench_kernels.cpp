// longhaul bench kernels
#include <memory>

#include "cli/command.h"
#include "kernels/bench/driver.h"
#include "kernels/cpu/bench/case.h"
#include "kernels/cuda/bench/bench.h"

namespace longhaul::cli {

std::function<int()> add_bench_kernels(CLI::App& bench) {
  CLI::App* kernels = bench.add_subcommand("kernels",
                                           "check kernels against float64 plain loops and time them: error, GFLOP/s or "
                                           "GB/s, fraction of the peak or bandwidth");
  auto options = std::make_shared<longhaul::bench::Options>();
  longhaul::bench::add_options(*kernels, *options, "cpu",
                               "cpu, cuda, emulator (the device kernels without a GPU) or plain (loops that the device "
                               "kernels are checked against)");
  return [options] {
    return longhaul::bench::run(*options,
                                {{"cpu", cpu::bench::make_device},
                                 {"cuda", [] { return cuda::bench::make_device(cuda::Backend::cuda); }},
                                 {"emulator", [] { return cuda::bench::make_device(cuda::Backend::emulator); }},
                                 {"plain", cuda::bench::make_plain_device}});
  };
}

}  // namespace longhaul::cli
