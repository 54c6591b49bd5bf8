// A step allocates nothing of ours. In float64 (OpenBLAS, our kernels) not one operator new runs; in float32 oneDNN
// keeps books of its own for each call, and MPI for each message: counted by library, and they must not grow.
#include <sys/wait.h>

#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>

#include "allocations.h"
#include "base/error.h"
#include "ranks.h"

namespace longhaul {
namespace {

using namespace testing;

Cell cell_of(DType dtype, int threads) {
  return {.spec = small_llama(),
          .sequence_ranks = 2,
          .zero_stage = 3,
          .micro_batches = 2,
          .rows = 2,
          .dtype = dtype,
          .threads = threads};
}

// Runs `steps` steps on this rank, calling `before` and `after` on every rank around each.
template <typename Before, typename After>
void run_steps(Communicator& world, const Cell& cell, const CompileRequest& request, const CompiledModel& model,
               int steps, Before&& before, After&& after) {
  std::vector<HostBatch> batches;
  for (int i = 0; i < 2; ++i) batches.push_back(make_batch(cell.spec, cell.rows, cell.sequence, i, Masking::uneven));
  CpuTarget cpu({.threads = cell.threads});
  Session session(world, cpu, request, model);
  session.set_parameters(random_parameters(cell.spec, 11));
  const std::function<void(std::int64_t)> fill = [&](std::int64_t i) {
    fill_slice(session, batches[static_cast<std::size_t>(i)], cell.sequence);
  };
  for (int step = 1; step <= steps; ++step) {
    world.barrier();
    before(step);
    world.barrier();
    session.step(step, 1e-3, 2, fill);
    world.barrier();
    after(step);
    world.barrier();
  }
}

// operator new calls of all ranks in one step, after two others.
std::vector<long> count_steps(DType dtype, int threads) {
  const Cell cell = cell_of(dtype, threads);
  const CompileRequest request = request_for(cell);
  const CompiledModel model = compile_model(request);
  std::vector<long> counts;
  run_threads(2, [&](Communicator& world) {
    run_steps(
        world, cell, request, model, 6,
        [&](int step) {
          if (world.rank() == 0 && step > 2) start_counting();
        },
        [&](int step) {
          if (world.rank() != 0) return;
          stop_counting();
          if (step > 2) counts.push_back(operator_new_calls());
        });
    return 0;
  });
  return counts;
}

}  // namespace

TEST_CASE("the counter counts") {
  start_counting();
  int* volatile one = new int(1);  // volatile: the compiler may leave out a pair that it sees whole
  delete one;
  stop_counting();
  CHECK(operator_new_calls() == 1);
  REQUIRE(counted_by_library().size() == 1);
  CHECK(counted_by_library()[0].library == "test_train");
  CHECK(counted_by_library()[0].bytes == sizeof(int));
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

#ifdef LONGHAUL_WITH_MPI
TEST_CASE("mpi child allocations", "[.mpi-child]") {
  if (!under_launcher()) return;
  const int result = run_mpi([](Communicator& world) {
    for (const DType dtype : {DType::float64, DType::float32, DType::bfloat16}) {
      const Cell cell = cell_of(dtype, 1);
      const CompileRequest request = request_for(cell);
      const CompiledModel model = compile_model(request);
      constexpr int steps = 42;
      // MPI's pools grow when more messages are on their way at once than ever before, which is a matter of timing;
      // what grew with every message would come to far more.
      constexpr long slack = 64 << 10;
      // oneDNN's buffers of a call come and go. Where a fragment of MPI's lies in the hole that the last one left,
      // malloc adds a piece to the heap: up to 240 KiB in one rank of five on a busy machine, none in most. What grew
      // in every step would exceed this by 26 KiB a step, and shows in the heap in use long before.
      constexpr long space_slack = 1 << 20;
      const long space_before = address_space();
      long heap = 0, space = 0;
      std::string problem;
      run_steps(
          world, cell, request, model, steps,
          [&](int step) {
            if (step == 3) {
              heap = heap_in_use();
              space = address_space();
              start_counting();
            }
          },
          [&](int step) {
            if (step != steps) return;
            stop_counting();
            std::string table;
            for (const auto& library : counted_by_library()) {
              table += fmt::format("\n  {:<16}{:>8.1f} calls {:>12.0f} bytes", library.library,
                                   static_cast<double>(library.calls) / (steps - 2),
                                   static_cast<double>(library.bytes) / (steps - 2));
              if (library.library == "test_train" && library.bytes > 0) problem = "our own code allocates in a step";
            }
            const long heap_growth = heap_in_use() - heap, space_growth = address_space() - space;
            if (heap_growth > slack) problem = fmt::format("the heap in use grew by {} bytes in 40 steps", heap_growth);
            if (space_growth > space_slack)
              problem = fmt::format("the address space grew by {} bytes in 40 steps", space_growth);
            if (world.rank() == 0)
              fmt::print(
                  "{}, each of steps 3 to {} on rank 0, by library:{}\n  kept by the first two steps: {} bytes of "
                  "address space; after them: heap {:+}, address space {:+}\n",
                  name_of(dtype), steps, table, space - space_before, heap_growth, space_growth);
          });
      if (!problem.empty()) fail("{}: {}", name_of(dtype), problem);
    }
    return 0;
  });
  CHECK(result == 0);
}

TEST_CASE("under mpirun no library's memory grows from step to step", "[mpi]") {
  const auto self = std::filesystem::read_symlink("/proc/self/exe").string();
  const int status = std::system(
      fmt::format(
          "timeout -k 5 300 mpirun --oversubscribe --allow-run-as-root -n 2 '{}' 'mpi child allocations' < /dev/null",
          self)
          .c_str());
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
}
#endif

}  // namespace longhaul
