// The device kernels in the kernel driver: on a GPU, on the emulator, or in plain loops on the host. What a problem
// line is, and the table, are kernels/bench's.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/bench/driver.h"
#include "kernels/cuda/api.h"
#include "kernels/cuda/loader.h"

namespace longhaul::cuda::bench {

using longhaul::bench::Measurement;
using longhaul::bench::Shape;

/// What a problem may use. Functions throw Error in the device's words.
class Context {
 public:
  Context(const Api& back_end, int repetitions, bool check_only = false)
      : api(back_end), repeat(repetitions), timed(!check_only) {}
  const Api& api;
  int repeat;
  bool timed;

  /// Device memory, freed with the context; filled with 0xff, so what a kernel leaves unwritten shows as NaN.
  void* allocate(std::size_t bytes);
  void release_all();
  void upload(void* to, const void* from, std::size_t bytes);
  void download(void* to, const void* from, std::size_t bytes);
  void succeed(int status) const;
  /// Runs the call once, and if times are wanted, times it and notes minimum and median.
  void time(Measurement& measurement, const std::function<void()>& call);

 private:
  std::vector<void*> memory_;
};

struct Op {
  std::string name;
  std::vector<std::string> kernels;          ///< functions of Api that it checks and times
  std::vector<std::string> device_shapes;    ///< timed on a GPU by default
  std::vector<std::string> emulator_shapes;  ///< small and odd: all keys with their defaults, then others over these
  std::function<Measurement(Context&, const Shape&)> run;
  std::function<Measurement(const Shape&)> plain = {};  ///< on the host; may be empty
};
std::vector<Op> attention_ops();
std::vector<Op> memory_bound_ops();
std::vector<Op> elementwise_ops();
std::vector<Op> generic_ops();
std::vector<Op> scalar_ops();
std::vector<Op> matmul_ops();
std::vector<Op> collective_ops();
/// Those of every family.
std::vector<Op> all_ops();

/// Random values: normal deviates by a sum of uniforms, quick enough for a gigabyte; the same for the same seed.
void fill_random(float* values, std::size_t count, unsigned seed, float scale = 1);
void fill_random_bfloat16(std::uint16_t* values, std::size_t count, unsigned seed, float scale = 1);
float from_bfloat16(std::uint16_t bits);
std::uint16_t to_bfloat16(float value);

/// The driver's devices "cuda", "emulator" and "plain" (the loops that the kernels are checked against, in float32).
std::unique_ptr<longhaul::bench::Device> make_device(Backend backend);
std::unique_ptr<longhaul::bench::Device> make_plain_device();

}  // namespace longhaul::cuda::bench
