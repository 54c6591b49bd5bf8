// Threads for the CPU kernels: one pool a rank. Waits block in the kernel (futex), for spinning costs milliseconds when
// cores are shared; the caller takes part in the work; tasks are handed out one by one, so threads that were
// descheduled hold nobody up.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

namespace longhaul {

template <typename Signature>
class FunctionReference;

/// A reference to something callable, which must outlive the reference: std::function without its allocation. Meant
/// for parameters only, where the callable is the caller's lambda.
template <typename Result, typename... Arguments>
class FunctionReference<Result(Arguments...)> {
 public:
  template <typename Callable>
  requires(!std::is_same_v<std::remove_cvref_t<Callable>, FunctionReference>)
      FunctionReference(Callable&& callable)  // NOLINT: implicit, like std::function
      : object_(const_cast<void*>(static_cast<const void*>(std::addressof(callable)))),
        call_([](void* object, Arguments... arguments) -> Result {
          return (*static_cast<std::remove_reference_t<Callable>*>(object))(std::forward<Arguments>(arguments)...);
        }) {}
  Result operator()(Arguments... arguments) const { return call_(object_, std::forward<Arguments>(arguments)...); }

 private:
  void* object_;
  Result (*call_)(void*, Arguments...);
};

/// A half-open range of indices.
struct Range {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  std::int64_t size() const { return end - begin; }
};

/// Part `part` of `parts` nearly equal, contiguous parts of 0..count-1 (some are empty when count < parts).
constexpr Range partition(std::int64_t count, std::int64_t parts, std::int64_t part) {
  const std::int64_t each = count / parts, more = count % parts;
  const std::int64_t begin = part * each + std::min(part, more);
  return {begin, begin + each + (part < more ? 1 : 0)};
}

class ThreadPool {
 public:
  /// A pool of `threads` >= 1 threads, the caller of run() counted: threads - 1 are started.
  explicit ThreadPool(int threads);
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  ~ThreadPool();

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  /// Calls body(task, thread) once for every task in 0..tasks-1 and returns when all have returned; `thread` is in
  /// 0..threads()-1, 0 being the caller, and no two running calls share it (so that it may select scratch memory). The
  /// tasks begin in ascending order; which thread takes which is not determined: a body whose result must not depend on
  /// the number of threads writes only what its task owns. When a body throws, tasks that have not begun are dropped
  /// and the exception is rethrown here. One run at a time, and none from inside a body (std::logic_error). With one
  /// thread, or one task, everything happens in the caller.
  void run(std::int64_t tasks, FunctionReference<void(std::int64_t task, int thread)> body);

 private:
  using Body = FunctionReference<void(std::int64_t, int)>;
  void work(int thread);
  void worker(int thread);

  static constexpr std::uint32_t open = 0x80000000u;
  // The job: written by run() while the gate is closed and nobody is inside, read by threads inside.
  const Body* body_ = nullptr;
  std::int64_t tasks_ = 0;
  std::exception_ptr exception_;
  std::mutex exception_mutex_;
  std::atomic<bool> running_{false};
  std::atomic<bool> stop_{false};
  alignas(64) std::atomic<std::int64_t> next_{0};         // the next task
  alignas(64) std::atomic<std::uint32_t> generation_{0};  // counts jobs; idle workers sleep on it
  alignas(64) std::atomic<std::uint32_t> gate_{0};        // `open`, and the number of workers inside
  std::vector<std::thread> workers_;
};

/// Calls body(begin, end) on consecutive ranges of `grain` indices (the last may be shorter) that cover 0..count-1. The
/// ranges depend on count and grain only, never on the number of threads.
template <typename BodyOfRange>
void parallel_for(ThreadPool& pool, std::int64_t count, std::int64_t grain, BodyOfRange&& body) {
  const std::int64_t step = std::max<std::int64_t>(1, grain);
  pool.run((count + step - 1) / step,
           [&](std::int64_t task, int) { body(task * step, std::min(count, (task + 1) * step)); });
}

/// Calls body(part, begin, end) for each of `parts` nearly equal ranges of 0..count-1. For sums: choose `parts` by the
/// problem (not by the threads), keep one partial sum a part, add them in order, and the result is the same on any
/// number of threads.
template <typename BodyOfPart>
void parallel_parts(ThreadPool& pool, std::int64_t count, std::int64_t parts, BodyOfPart&& body) {
  pool.run(parts, [&](std::int64_t part, int) {
    const Range range = partition(count, parts, part);
    body(part, range.begin, range.end);
  });
}

}  // namespace longhaul
