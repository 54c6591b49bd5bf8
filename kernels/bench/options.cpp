#include <CLI/CLI.hpp>

#include "kernels/bench/driver.h"

namespace longhaul::bench {

void add_options(CLI::App& app, Options& options, const std::string& device, const std::string& devices) {
  options.device = device;
  app.add_option("--device", options.device, devices + "; default " + device);
  app.add_option("--op", options.op, "one op; default: all");
  app.add_option(
      "--shape", options.shape,
      "sizes of the op over its defaults, as \"b=1 h=12 kv=4 s=8192 d=64,128\"; a list is one problem a value");
  app.add_option("--dtype", options.dtype,
                 "replaces the problems' dtype: float32, bfloat16, float64 (or fp32, bf16, fp64)");
  app.add_option("--threads", options.threads, "replaces the problems' threads")->check(CLI::Range(1, 1024));
  app.add_option("--problems", options.problems, "a file of problem lines, as benchmarks/problems/*.txt");
  app.add_option("--compare", options.run.compare, "time this library beside the kernel: onednn, openblas or both")
      ->delimiter(',');
  app.add_option("--repeat", options.run.repeat, "timed runs; default: as many as take about half a second, at least 5")
      ->check(CLI::Range(1, 100000));
  app.add_flag("--check-only", options.run.check_only, "correctness only: no problem is timed");
  app.add_option("--json", options.json, "also write the table to this file");
  app.add_option("--markdown", options.markdown, "also write the table to this file");
}

}  // namespace longhaul::bench
