// longhaul bench kernels
#include <memory>

#include "cli/command.h"
#include "kernels/cuda/bench/bench.h"

namespace longhaul::cli {

std::function<int()> add_bench_kernels(CLI::App& bench) {
  CLI::App* kernels = bench.add_subcommand(
      "kernels", "check and time the device kernels: error against float64, TFLOP/s, GB/s, fraction of the peak");
  struct Options {
    std::string device = "cuda", op, shape, json, markdown;
    int repeat = 0;
  };
  auto options = std::make_shared<Options>();
  kernels->add_option("--device", options->device, "cuda, emulator (no GPU needed) or cpu (plain loops); default cuda");
  kernels->add_option("--op", options->op, "one op; default all");
  kernels->add_option("--shape", options->shape,
                      "sizes of the op, key=value,...: those given replace its small defaults");
  kernels->add_option("--repeat", options->repeat, "timed runs, of which the median counts")
      ->check(CLI::Range(1, 100000));
  kernels->add_option("--json", options->json, "also write the table to this file");
  kernels->add_option("--markdown", options->markdown, "also write the table to this file");
  return [options] {
    std::vector<std::string> arguments = {"--device", options->device};
    for (const auto& [name, value] : {std::pair<const char*, std::string>{"--op", options->op},
                                      {"--shape", options->shape},
                                      {"--json", options->json},
                                      {"--markdown", options->markdown},
                                      {"--repeat", options->repeat ? std::to_string(options->repeat) : ""}})
      if (!value.empty()) arguments.insert(arguments.end(), {name, value});
    return cuda::bench::run(arguments);
  };
}

}  // namespace longhaul::cli
