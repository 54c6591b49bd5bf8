// The kernel driver: a problem line is checked against float64 plain loops and then timed, on the very same inputs, by
// whatever device can run it. A back end plugs in by deriving from Device; nothing here knows what a kernel is.
#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "kernels/bench/problem.h"

namespace CLI {
class App;
}
namespace longhaul::bench {

struct Measurement {
  std::string op, shape;
  std::string kernel;     ///< which of several ran, for example the instruction set or the library; may be empty
  double error = 0;       ///< the worst output's, against float64; relative; what it measures is the device's to say
  double bound = 0;       ///< of that error: above it (or NaN) the kernel is wrong
  bool timed = false;     ///< what follows is set
  double minimum_ms = 0;  ///< of one run; which clock is the device's to say
  double median_ms = 0;
  double flops = 0;                 ///< of one run; 0: a memory-bound op
  double bytes = 0;                 ///< read and written at least once
  std::optional<double> fraction;   ///< of the peak (flops) or of the bandwidth (bytes), see the device's description
  std::optional<double> cpu_share;  ///< CPU time over wall time and threads: 1 is having the cores to oneself
  std::vector<std::pair<std::string, double>> ratios;  ///< a library's time over ours: above 1, ours is faster
};

struct RunOptions {
  int repeat = 0;                    ///< timed runs; 0: until they took about half a second
  bool check_only = false;           ///< correctness only
  std::vector<std::string> compare;  ///< libraries to time beside it
};

/// Where kernels run.
class Device {
 public:
  virtual ~Device() = default;
  /// A line about the machine and what `fraction` is of.
  virtual std::string description() = 0;
  struct Op {
    std::string name;
    Shape defaults;
    std::vector<Shape> timed;  ///< run when no problem is given, over the defaults
  };
  virtual std::vector<Op> ops() const = 0;
  /// `shape` has all keys of the op's defaults. Throws Error for values that the op cannot have.
  virtual Measurement run(const std::string& op, const Shape& shape, const RunOptions& options) = 0;
};

struct Options {
  std::string device, op, shape, dtype, problems, json, markdown;
  int threads = 0;  ///< 0: as the problem says
  RunOptions run;
};
/// The program's options, which the subcommand and the program of its own share; `device` is the default.
void add_options(CLI::App& app, Options& options, const std::string& device, const std::string& devices);

/// By name, made when asked for.
using Devices = std::vector<std::pair<std::string, std::function<std::unique_ptr<Device>()>>>;

/// Runs the problems and prints a line for each. Returns the exit status: 1 when an error is above its bound.
int run(const Options& options, const Devices& devices);

}  // namespace longhaul::bench
