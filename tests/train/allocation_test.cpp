// A step allocates nothing of ours. In float64 (OpenBLAS, our kernels) not one operator new runs; in float32 oneDNN
// keeps books of its own for each call, which are counted and must not grow.
#include <atomic>
#include <catch2/catch.hpp>
#include <cstdlib>
#include <new>

#include "ranks.h"

// Both sides are replaced here, with malloc and free underneath; GCC, seeing only one of them inlined, takes that for a
// mismatch.
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"

namespace {
std::atomic<bool> counting{false};
std::atomic<long> allocations{0};

void* counted_or_null(std::size_t bytes) noexcept {
  if (counting.load(std::memory_order_relaxed)) allocations.fetch_add(1, std::memory_order_relaxed);
  return std::malloc(bytes ? bytes : 1);
}

void* counted(std::size_t bytes) {
  if (void* memory = counted_or_null(bytes)) return memory;
  throw std::bad_alloc();
}
}  // namespace

void* operator new(std::size_t bytes) {
  return counted(bytes);
}
void* operator new[](std::size_t bytes) {
  return counted(bytes);
}
// Catch and the standard library allocate without throwing too; what is freed by our delete must come from our new.
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
  return counted_or_null(bytes);
}
void* operator new[](std::size_t bytes, const std::nothrow_t&) noexcept {
  return counted_or_null(bytes);
}
void operator delete(void* memory) noexcept {
  std::free(memory);
}
void operator delete[](void* memory) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
  std::free(memory);
}
void operator delete[](void* memory, std::size_t) noexcept {
  std::free(memory);
}

namespace longhaul {
namespace {

using namespace testing;

// operator new calls of all ranks in one step, after two others.
std::vector<long> count_steps(DType dtype, int threads) {
  Cell cell{.spec = small_llama(),
            .sequence_ranks = 2,
            .zero_stage = 3,
            .micro_batches = 2,
            .rows = 2,
            .dtype = dtype,
            .threads = threads};
  const CompileRequest request = request_for(cell);
  const CompiledModel model = compile_model(request);
  std::vector<GlobalBatch> batches;
  for (int i = 0; i < 2; ++i) batches.push_back(make_batch(cell.spec, cell.rows, cell.sequence, i, Masking::uneven));
  std::vector<long> counts;
  run_threads(2, [&](Communicator& world) {
    Session session(world, request, model);
    session.set_parameters(random_parameters(cell.spec, 11));
    const std::function<void(std::int64_t)> fill = [&](std::int64_t i) {
      fill_slice(session, batches[static_cast<std::size_t>(i)], cell.sequence);
    };
    for (int step = 1; step <= 6; ++step) {
      world.barrier();
      if (world.rank() == 0) {
        allocations = 0;
        counting = step > 2;
      }
      world.barrier();
      session.step(step, 1e-3, 2, fill);
      world.barrier();
      if (world.rank() == 0) {
        counting = false;
        if (step > 2) counts.push_back(allocations);
      }
      world.barrier();
    }
    return 0;
  });
  return counts;
}

}  // namespace

TEST_CASE("the counter counts") {
  allocations = 0;
  counting = true;
  delete new int(1);
  counting = false;
  CHECK(allocations == 1);
}

TEST_CASE("a step allocates nothing of ours", "[threads]") {
  for (const int threads : {1, 2})
    for (const long count : count_steps(DType::float64, threads)) CHECK(count == 0);
}

TEST_CASE("what the libraries allocate in a step does not grow", "[threads]") {
  for (const DType dtype : {DType::float32, DType::bfloat16}) {
    const auto counts = count_steps(dtype, 1);
    WARN("oneDNN: " << counts.front() << " allocations a step on two ranks in " << name_of(dtype));
    for (const long count : counts) CHECK(count == counts.front());
  }
}

}  // namespace longhaul
