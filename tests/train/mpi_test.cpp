// Each cell of the matrix once under mpirun: the [mpi] case starts this program again on real processes.
#ifdef LONGHAUL_WITH_MPI
#include <sys/wait.h>

#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>

#include "base/error.h"
#include "base/sanitizers.h"
#include "ranks.h"

namespace longhaul {
namespace {

using namespace testing;

int launch(int ranks) {
  const auto self = std::filesystem::read_symlink("/proc/self/exe").string();
  std::string environment;
#ifdef LONGHAUL_ADDRESS_SANITIZER
  environment = "ASAN_OPTIONS=detect_leaks=0 ";  // MPI libraries leak by design
#endif
  const int status = std::system(
      fmt::format(
          "env {}timeout -k 5 300 mpirun --oversubscribe --allow-run-as-root -n {} '{}' 'mpi child matrix' < /dev/null",
          environment, ranks, self)
          .c_str());
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace

TEST_CASE("mpi child matrix", "[.mpi-child]") {
  if (!under_launcher()) return;
  const int result = run_mpi([](Communicator& world) {
    for (const auto& spec : {small_llama(), small_gpt2(), small_qwen3()})
      for (const int data : {1, 2, 4}) {
        if (world.size() % data) continue;
        Cell cell{.spec = spec,
                  .data = data,
                  .sequence_ranks = world.size() / data,
                  .micro_batches = 2,
                  .rows = 4,
                  .sequence = 15,
                  .masking = Masking::uneven};
        const Outcome reference = world.rank() == 0 ? run_reference(cell) : Outcome();
        Outcome turns;
        // 4: in groups, with parameters gathered once a step. 5: as 3, its collectives beside computation.
        for (const int run : {0, 1, 2, 3, 4, 5}) {
          cell.zero_stage = std::min(run, 3);
          cell.overlap_memory = run == 5 ? any_memory : 0;
          cell.bucket_size = run == 5 ? 1024 : 4 << 20;
          cell.shard_group = run == 4 ? world.size() / std::min(data, 2) : 0;
          cell.gathered = run == 4 ? KeepGathered::step : KeepGathered::never;
          const CompileRequest request = request_for(cell);
          const CompiledModel model = compile_model(request);
          std::string problem;
          const Outcome outcome = run_rank(world, cell, request, model, problem);
          if (problem.empty() && world.rank() == 0) problem = difference(outcome, reference, tolerance::float64);
          if (run == 3) turns = outcome;
          if (problem.empty() && run == 5 && !same_bits(outcome, turns)) problem = "other bits beside computation";
          if (!problem.empty()) fail("{}: {}", cell.text(), problem);
        }
      }
    // Windows, each way, every stage once.
    Cell cell{.spec = small_qwen3(), .rows = 2, .sequence = 24, .masking = Masking::packed};
    const Outcome reference = world.rank() == 0 ? run_reference(cell) : Outcome();
    for (cell.zero_stage = 0; cell.zero_stage <= 3; ++cell.zero_stage) {
      const bool heads = cell.zero_stage >= 2;  // of the layer without a window
      cell.sequence_ranks = heads ? world.size() : 1;
      cell.ring = heads ? 1 : world.size();
      cell.order = cell.zero_stage == 0 ? TokenOrder::zigzag : TokenOrder::contiguous;
      const std::string way = cell.zero_stage == 1 || cell.zero_stage == 2 ? "gather" : "ring";
      cell.window_axes = {{"ring", way}, {"ulysses", way}};
      const CompileRequest request = request_for(cell);
      std::string problem;
      const Outcome outcome = run_rank(world, cell, request, compile_model(request), problem);
      if (problem.empty() && world.rank() == 0) problem = difference(outcome, reference, tolerance::float64);
      if (!problem.empty()) fail("{}: {}", cell.text(), problem);
    }
    return 0;
  });
  CHECK(result == 0);
}

TEST_CASE("the matrix under mpirun", "[mpi]") {
  CHECK(launch(2) == 0);
  CHECK(launch(4) == 0);
}

}  // namespace longhaul
#endif
