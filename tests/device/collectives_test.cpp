// Messages between devices, whatever carries them: the same bits, and what a run does when a peer does not come, stands
// still or reports an error.
#include <chrono>

#include "../proof/matrix.h"
#include "emulated.h"
#include "ir/op_definition.h"

namespace longhaul {
namespace {

using namespace testing;

Cell on(Cell cell, std::unique_ptr<Target> (*device)(int)) {
  cell.device = device;
  return cell;
}

std::vector<std::pair<const char*, Cell>> cells() {
  std::vector<std::pair<const char*, Cell>> all;
  const auto add = [&](const char* name, std::size_t family, std::size_t split, std::size_t stage, std::size_t data,
                       std::size_t dtype) {
    all.push_back({name, cell_of({family, split, stage, data, dtype})});
  };
  add("all-to-all, three stages of ZeRO", 0, 0, 3, 5, 2);
  add("a ring of three, an odd sequence", 2, 5, 2, 4, 1);
  add("gathered keys among three", 1, 10, 1, 0, 2);
  add("two axes", 3, 13, 3, 3, 2);
  add("data over four", 0, 20, 2, 1, 1);
  return all;
}

// What ends a job of two ranks, whose steps are done by NCCL, and after how many seconds.
std::pair<std::string, double> ended_by(const std::string& fault) {
  const NcclFault planned(fault);
  Cell cell = on(cell_of({0, 0, 3, 0, 1}), impatient);
  const auto begin = std::chrono::steady_clock::now();
  std::string message;
  try {
    std::string problem;
    run_ranks(cell, problem);
  } catch (const std::exception& error) {
    message = error.what();
  }
  return {message, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count()};
}

}  // namespace

TEST_CASE("messages by NCCL and by push give the bits of those that are staged in host memory, as many bytes",
          "[threads]") {
  for (const auto& [name, cell] : cells()) {
    INFO(name << ": " << cell.text());
    std::string problem;
    const Outcome staged = run_ranks(on(cell, emulated), problem);
    for (const auto device : {by_nccl, by_push}) {
      const Outcome other = run_ranks(on(cell, device), problem);
      CHECK(problem == "");
      CHECK(other.first.loss == staged.first.loss);
      CHECK(other.second.loss == staged.second.loss);
      CHECK(other.gradients == staged.gradients);
      CHECK(other.parameters == staged.parameters);
    }
  }
}

TEST_CASE("collectives on a stream of their own change no bit, nor do copies to host memory beside them", "[threads]") {
  // The emulator finds what one stream reads or writes without being ordered behind the other.
  const auto all = cells();
  for (const std::size_t i : {0, 1, 3}) {
    auto [name, cell] = all[i];
    INFO(name << ": " << cell.text());
    std::string problem;
    cell.bucket_size = 1024;  // several a layer
    const Outcome turns = run_ranks(on(cell, emulated), problem);
    cell.overlap_memory = any_memory;
    cell.offload_values = 1000;
    const CompiledModel model = compile_model(request_for(on(cell, by_nccl)));
    const auto& ops = model.programs.at(1)->graph.ops;
    CHECK(std::count_if(ops.begin(), ops.end(), [](const Op& op) {
            return op.definition->half == Half::start && op.definition->communication;
          }) > 4);
    for (const auto device : {emulated, by_nccl, by_push}) {
      const Outcome beside = run_ranks(on(cell, device), problem);
      CHECK(problem == "");
      check_same_bits(beside, turns);
    }
  }
}

TEST_CASE("only where sums need no order are they NCCL's: near, and other bits", "[threads]") {
  // Of three ranks, so that the order of two additions matters.
  const Cell cell = cell_of({0, 4, 1, 1, 1});
  std::string problem;
  const Outcome ordered = run_ranks(on(cell, by_nccl), problem), any = run_ranks(on(cell, summed_by_nccl), problem);
  CHECK(problem == "");
  CHECK(any.gradients != ordered.gradients);
  for (const auto& [tensor, error] : tensor_errors(any.gradients, ordered.gradients)) {
    INFO(tensor);
    CHECK(error < 1e-4);
  }
  const CompiledModel model = compile_model(request_for(on(cell, summed_by_nccl)));
  int sums = 0;
  for (const Program* program : model.all())
    for (const Op& op : program->graph.ops) {
      if (!op.is("all_reduce") && !op.is("reduce_scatter")) continue;
      CommunicationStep step(program->graph, op, 0);
      CHECK(DataPlaneChoice{DataPlaneKind::nccl, false}.sums_by_nccl(step));
      CHECK(!DataPlaneChoice{DataPlaneKind::nccl, true}.sums_by_nccl(step));
      step.dtype = DType::bfloat16;  // would be rounded at every hop: it stays in order
      CHECK(!DataPlaneChoice{DataPlaneKind::nccl, false}.sums_by_nccl(step));
      ++sums;
    }
  CHECK(sums > 0);
}

TEST_CASE("push is refused to more ranks than its signals have places for", "[threads]") {
  Cell cell{.spec = small_llama(), .data = 17, .zero_stage = 1, .rows = 17, .dtype = DType::float32};
  cell.device = by_push;
  std::string problem;
  CHECK_THROWS_WITH(run_ranks(cell, problem),
                    Catch::Contains("device.collectives is push") && Catch::Contains("17 ranks, more than 16"));
}

TEST_CASE("a peer that does not come to a collective ends the job with the collective's name", "[threads]") {
  const auto [message, seconds] = ended_by("silent 1 12");
  INFO(message);
  CHECK_THAT(message, Catch::Contains("program ") && Catch::Contains(", instruction ") &&
                          Catch::Contains("among ranks 0, 1 by nccl") && Catch::Contains("device.timeout") &&
                          Catch::Contains("0.5 seconds"));
  CHECK(seconds < 30);
}

TEST_CASE("a peer that never comes to the making of a communicator ends the job", "[threads]") {
  const auto [message, seconds] = ended_by("silent 1 0");
  INFO(message);
  CHECK_THAT(message,
             Catch::Contains("the making of NCCL's communicator of ranks 0, 1") && Catch::Contains("device.timeout"));
  CHECK(seconds < 30);
}

TEST_CASE("an asynchronous error of NCCL ends the job with the collective's name, at once", "[threads]") {
  const auto [message, seconds] = ended_by("error 0 9");
  INFO(message);
  CHECK_THAT(message, Catch::Contains("rank 0: ") && Catch::Contains("among ranks 0, 1 by nccl") &&
                          Catch::Contains("remote process exited or there was a network error"));
  CHECK(seconds < 30);
  const auto [first, _] = ended_by("error 1 0");
  CHECK_THAT(first, Catch::Contains("the making of NCCL's communicator") && Catch::Contains("unhandled system error"));
}

}  // namespace longhaul
