// The kernel driver: one problem line is both checked and timed, on a GPU, on the emulator, or in plain loops on the
// host.
//
//   longhaul_bench_kernels [--device cuda|emulator|cpu] [--op NAME] [--shape key=value,...] [--repeat N]
//                          [--json FILE] [--markdown FILE]
#pragma once
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "kernels/cuda/api.h"

namespace longhaul::cuda::bench {

/// Sizes of a problem: "s=8192,h=16,d=128,mask=causal" over an op's defaults.
class Shape {
 public:
  /// Throws Error for a malformed text.
  explicit Shape(const std::string& text);
  /// Numbers and words, in the order given. Throws for a missing key.
  std::int64_t number(const std::string& key) const;
  std::string word(const std::string& key) const;
  /// Every entry of `over` replaces one of this; throws for a key that this op does not have.
  Shape with(const std::string& over) const;
  std::string text() const;

 private:
  std::vector<std::pair<std::string, std::string>> entries_;
};

struct Measurement {
  std::string op, shape;
  double error = 0;  ///< root mean square against fp64, relative
  double bound = 0;  ///< of the error
  double milliseconds = 0;
  double flops = 0;  ///< of one run; 0: a memory-bound op
  double bytes = 0;  ///< read and written at least once
};

/// What a problem may use. Functions throw Error in the device's words.
class Context {
 public:
  Context(const Api& back_end, int repetitions) : api(back_end), repeat(repetitions) {}
  const Api& api;
  int repeat;

  /// Device memory, freed with the context.
  void* allocate(std::size_t bytes);
  void release_all();
  void upload(void* to, const void* from, std::size_t bytes);
  void download(void* to, const void* from, std::size_t bytes);
  void succeed(int status) const;
  /// Median time of one call, after a warm-up.
  double time(const std::function<void()>& call);

 private:
  std::vector<void*> memory_;
};

struct Op {
  std::string name;
  std::vector<std::string> device_shapes;  ///< timed on a GPU by default
  std::string emulator_shape;              ///< small and odd
  std::function<Measurement(Context&, const Shape&)> run;
  std::function<Measurement(const Shape&, int repeat)> plain;  ///< on the host; may be empty
};
std::vector<Op> attention_ops();
std::vector<Op> memory_bound_ops();
std::vector<Op> collective_ops();

/// Random values: normal deviates by a sum of uniforms, quick enough for a gigabyte; the same for the same seed.
void fill_random(float* values, std::size_t count, unsigned seed, float scale = 1);
void fill_random_bfloat16(std::uint16_t* values, std::size_t count, unsigned seed, float scale = 1);
float from_bfloat16(std::uint16_t bits);

/// The program. Returns its exit status: 1 when an error is above its bound.
int run(const std::vector<std::string>& arguments);

}  // namespace longhaul::cuda::bench
