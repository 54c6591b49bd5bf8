// A problem set up for both sides: the kernel, on arrays of its own types, and the oracle, which is the plain loops in
// float64 on the same numbers. One file an op family fills a Case; the engine (measure.cpp) checks and times any.
#pragma once
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "kernels/bench/driver.h"
#include "kernels/cpu/support.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/cpu/vector_table.h"

namespace longhaul::cpu::bench {

using longhaul::bench::Shape;

/// Memory of a kernel: aligned to 64 bytes (large arrays to huge pages, which it asks for), filled with 0xff: NaN in
/// every floating type, so what a kernel leaves unwritten shows.
class Memory {
 public:
  explicit Memory(std::size_t bytes);
  void* data() const { return data_.get(); }
  std::size_t bytes() const { return bytes_; }

 private:
  struct Free {
    void operator()(void* pointer) const { std::free(pointer); }
  };
  std::size_t bytes_;
  std::unique_ptr<void, Free> data_;
};

/// The same numbers in the kernel's type and, exactly, in float64.
struct Tensor {
  Tensor(DType dtype, std::int64_t elements)
      : type(dtype),
        count(elements),
        narrow(static_cast<std::size_t>(elements) * size_of(dtype)),
        wide(static_cast<std::size_t>(elements) * 8) {}
  DType type;
  std::int64_t count;
  Memory narrow, wide;
  double narrow_at(std::int64_t i) const;
  double wide_at(std::int64_t i) const { return static_cast<const double*>(wide.data())[i]; }
};

/// Which side a call is for.
class Side {
 public:
  Side(bool oracle, ThreadPool& threads, void* memory) : exact(oracle), pool(threads), scratch(memory) {}
  bool exact;  ///< the oracle: reference kernels, float64
  ThreadPool& pool;
  void* scratch;  ///< what the case asked for; the kernel's side only
  DType operator()(DType type) const { return exact ? DType::float64 : type; }
  DType type(const Tensor& tensor) const { return (*this)(tensor.type); }
  void* operator()(const Tensor& tensor) const { return exact ? tensor.wide.data() : tensor.narrow.data(); }
};

/// Compares outputs and keeps the one whose error is greatest relative to its bound.
class Check {
 public:
  /// max |got - want| / max |want| over `count` elements against `bound`; infinite where `got` is not finite and
  /// differs.
  void compare(std::int64_t count, const std::function<double(std::int64_t)>& got,
               const std::function<double(std::int64_t)>& want, double bound);
  double error = 0, bound = 0;

 private:
  bool empty_ = true;
};

/// A library's way to run the same problem on the same arrays.
struct Peer {
  std::string library;
  std::function<void(Side)> call;
};

class Case {
 public:
  explicit Case(const Shape& shape);

  const Shape& shape;  ///< the problem
  DType dtype;         ///< the key dtype
  std::int64_t size(const char* key) const { return shape.number(key); }
  bool flag(const char* key) const;
  /// A key that names a floating type; `same` stands for dtype.
  DType type(const char* key) const;
  int threads() const { return static_cast<int>(shape.number("threads")); }

  /// Arrays. Inputs are random, nearly normal with this size and mean, rounded to the type first.
  Tensor& input(std::int64_t count, double size = 1, double mean = 0) { return input_of(dtype, count, size, mean); }
  Tensor& input_of(DType type, std::int64_t count, double size = 1, double mean = 0);
  Tensor& output(std::int64_t count, double units = 0) { return output_of(dtype, count, units); }
  /// The bound of its error in units of the roundoff of the output's type, or of float32 if that is less precise than
  /// the output's and the problem is not in float64; 0: the case's.
  Tensor& output_of(DType type, std::int64_t count, double units = 0);
  /// An input that the kernel overwrites with a result: put back before every run.
  Tensor& updated(Tensor& tensor, double units = 0);
  /// Random numbers in [0, below), shared by both sides.
  std::vector<std::int32_t>& integers(std::int64_t count, std::int64_t below);
  std::vector<std::int32_t>& integers(std::int64_t count);

  // What a family sets.
  std::function<void(Side)> call;            ///< runs the problem on one side
  std::function<void(ThreadPool&)> prepare;  ///< before the first call; may be empty
  std::function<void(Case&, Check&)> check;  ///< compares after the kernel's run; default: calls the oracle's side
  std::vector<Peer> peers;
  std::size_t scratch_bytes = 0;
  std::string kernel;           ///< which of several runs
  double flops = 0, bytes = 0;  ///< of one run; with flops, bytes do not matter
  double tolerance = 8;         ///< of outputs that do not state their own

  // For the engine and for checks.
  struct Output {
    Tensor* tensor;
    double tolerance;
    bool updated;
    std::vector<char> before;  ///< of an updated input
  };
  void restore();
  /// The bound of an output of this type.
  double bound(DType type, double units) const;
  const std::deque<Output>& outputs() const { return outputs_; }
  ThreadPool& pool() { return pool_; }

 private:
  unsigned seed_ = 0;
  ThreadPool pool_;
  std::deque<Tensor> tensors_;
  std::deque<Output> outputs_;
  std::deque<std::vector<std::int32_t>> integers_;
};

/// An op of the driver's.
struct Entry {
  const char* name;
  /// The functions of kernels/cpu that it runs, as declared there: a test holds that none is left out.
  std::vector<std::string> kernels;
  /// Keys and what they are when a problem does not say; `timed` as a list may say more than one.
  const char* defaults;
  void (*set_up)(Case&);
};

// One file a family, each with its table.
std::vector<Entry> attention_entries();
std::vector<Entry> matmul_entries();
std::vector<Entry> norm_entries();
std::vector<Entry> activation_entries();
std::vector<Entry> elementwise_entries();
std::vector<Entry> embedding_entries();
std::vector<Entry> loss_entries();
std::vector<Entry> optimizer_entries();
std::vector<Entry> exchange_entries();
std::vector<Entry> entries();

/// Checks, then times unless told not to.
longhaul::bench::Measurement measure(Case& problem, const longhaul::bench::RunOptions& options);

/// The device "cpu" of the driver.
std::unique_ptr<longhaul::bench::Device> make_device();

}  // namespace longhaul::cpu::bench
