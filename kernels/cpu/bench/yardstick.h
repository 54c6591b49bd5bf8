// What the machine can do at this moment, on the threads of a pool.
#pragma once
#include <memory>

#include "base/dtype.h"
#include "kernels/cpu/bench/case.h"
#include "kernels/cpu/thread_pool.h"

namespace longhaul::cpu::bench {

class Yardstick {
 public:
  /// Arithmetic: FMA operations a second of the dtype (bfloat16 where the processor has its products, else float32;
  /// float64 is half of float32). Otherwise bytes a second of a triad over arrays that exceed the last-level cache.
  Yardstick(DType dtype, bool arithmetic, ThreadPool& pool);
  /// A burst of about a millisecond (arithmetic) or one pass of the triad, all threads together.
  double measure() const;

 private:
  DType dtype_;
  bool arithmetic_;
  ThreadPool& pool_;
  std::int64_t count_ = 0;  // floats an array
  std::unique_ptr<Memory> a_, b_, c_;
};

}  // namespace longhaul::cpu::bench
