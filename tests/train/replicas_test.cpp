// One flipped bit in one rank's memory is found wherever several ranks hold the same, and named.
#include "run/replicas.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <limits>
#include <span>

#include "base/error.h"
#include "comm/launch.h"
#include "ranks.h"
#include "run/repeated_step.h"
#include "small_models.h"

using namespace longhaul;
using namespace longhaul::testing;
using Catch::Matchers::Contains;

namespace {

// Trains a step, lets `change` spoil a rank's state, and says how `check` ends.
std::string outcome(const Cell& cell, DType dtype, const std::function<void(Session&, int)>& change,
                    const std::function<void(Session&)>& check) {
  Cell typed = cell;
  typed.dtype = dtype;
  const CompileRequest request = request_for(typed);
  const CompiledModel model = compile_model(request);
  try {
    run_threads(cell.world(), [&](Communicator& world) {
      CpuTarget cpu({.threads = cell.threads});
      Session session(world, cpu, request, model);
      session.set_parameters(random_parameters(cell.spec, 11));
      session.step(1, 1e-2, cell.micro_batches, [&](std::int64_t i) {
        fill_slice(session, make_batch(cell.spec, cell.rows, cell.sequence, static_cast<int>(i), cell.masking),
                   cell.sequence);
      });
      verify_replicas(session);
      require_finite_state(session);
      change(session, world.rank());
      check(session);
      return 0;
    });
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

// The last digit of an element that this rank holds, counted from its first.
void flip(Session& session, const StateTensor& tensor, std::int64_t element) {
  std::vector<std::byte> bytes(size_of(tensor.dtype));
  session.read(tensor, tensor.begin + element, bytes);
  bytes[0] ^= std::byte{1};
  session.write(tensor, tensor.begin + element, bytes);
}

}  // namespace

TEST_CASE("a flipped bit in a copy is found and its tensor and ranks are named", "[threads]") {
  Cell cell;
  cell.spec = small_llama();
  cell.data = 4;
  cell.rows = 4;
  const auto check = [](Session& session) { verify_replicas(session); };
  for (const DType dtype : {DType::float64, DType::bfloat16}) {
    cell.zero_stage = 0;
    cell.shard_group = 0;
    for (const std::string name : {"layers.0.attention.q.weight", "final_norm.weight"}) {
      const std::string refused = outcome(
          cell, dtype,
          [&](Session& session, int rank) {
            if (rank == 2) flip(session, session.state(name), 1);
          },
          check);
      CHECK_THAT(refused, Contains("copies of " + name + " differ between ranks: rank 2 against ranks 0, 1, 3"));
    }
    // Every tensor of the state, the moments among them.
    outcome(
        cell, dtype,
        [&](Session& session, int rank) {
          (void)session;
          (void)rank;
        },
        check);
    CHECK(outcome(
              cell, dtype, [](Session&, int) {}, check) == "");
  }
  // Two groups that hold copies of each other's shards: ranks 0 and 2, 1 and 3.
  cell.zero_stage = 3;
  cell.shard_group = 2;
  std::string changed;
  const std::string refused = outcome(
      cell, DType::float64,
      [&](Session& session, int rank) {
        for (const auto& tensor : session.state())
          if (rank == 3 && tensor.key.role == Role::second_moment && tensor.end > tensor.begin) {
            flip(session, tensor, 0);
            changed = tensor.name;
            break;
          }
      },
      check);
  CHECK_THAT(refused, Contains("copies of " + changed + " differ between ranks: ranks 1 against ranks 3") ||
                          Contains("copies of " + changed + " differ between ranks: rank 3 against rank 1") ||
                          Contains("copies of " + changed + " differ between ranks: rank 1 against rank 3"));
}

TEST_CASE("a compute copy that is not its master's rounding is found on the rank that holds both", "[threads]") {
  Cell cell;
  cell.spec = small_llama();
  cell.data = 2;
  cell.rows = 2;
  cell.zero_stage = 0;
  const std::string refused = outcome(
      cell, DType::bfloat16,
      [](Session& session, int) {
        for (const auto& tensor : session.state())
          if (tensor.key.role == Role::compute_parameter)
            return flip(session, tensor, 5);  // alike on all ranks: no copy differs
      },
      [](Session& session) { verify_replicas(session); });
  CHECK_THAT(refused, Contains("rank 0: compute.") && Contains("element 5 is") && Contains("but its master in"));
}

TEST_CASE("state that is not finite is not saved", "[threads]") {
  Cell cell;
  cell.spec = small_llama();
  cell.data = 2;
  cell.rows = 2;
  cell.zero_stage = 1;
  for (const double value : {std::numeric_limits<double>::infinity(), std::nan("")}) {
    const std::string refused = outcome(
        cell, DType::float64,
        [&](Session& session, int rank) {
          for (const auto& tensor : session.state())
            if (rank == 1 && tensor.key.role == Role::first_moment && tensor.end > tensor.begin) {
              session.write(tensor, tensor.begin, std::as_bytes(std::span(&value, 1)));
              return;
            }
        },
        [](Session& session) { require_finite_state(session); });
    CHECK_THAT(refused, Contains("rank 1: ") && Contains("nothing is saved"));
  }
}

TEST_CASE("a step that is computed again gives the same bits, or names what does not", "[threads]") {
  Cell cell;
  cell.spec = small_llama();
  cell.data = 2;
  cell.rows = 2;
  for (const std::int64_t micro_batches : {1, 2}) {
    cell.micro_batches = micro_batches;
    const CompileRequest request = request_for(cell);
    const CompiledModel model = compile_model(request);
    // A rank whose memory shows another token in the second of two passes.
    const auto outcome_with = [&](int bad_rank) -> std::string {
      try {
        run_threads(cell.world(), [&](Communicator& world) {
          CpuTarget cpu({.threads = cell.threads});
          Session session(world, cpu, request, model);
          session.set_parameters(random_parameters(cell.spec, 11));
          bool again = false;
          const auto fill = [&](std::int64_t i) {
            fill_slice(session, make_batch(cell.spec, cell.rows, cell.sequence, static_cast<int>(i), cell.masking),
                       cell.sequence);
            std::int32_t& token = session.micro_batch().tokens[0];
            if (again && world.rank() == bad_rank) token = token == 0 ? 1 : 0;
          };
          const StepResult first = session.accumulate(cell.micro_batches, fill);
          const double norm = session.gradient_norm();
          again = true;
          compute_again(session, 8, first, cell.micro_batches, fill);
          if (session.gradient_norm() != norm) fail("the norm of the step computed twice is another");
          return 0;
        });
      } catch (const Error& error) {
        return error.what();
      }
      return "";
    };
    CHECK(outcome_with(-1).empty());
    CHECK_THAT(outcome_with(1), Contains("step 8 was computed twice") && Contains("rank 1 on host") &&
                                    Contains("gradients") && Contains("the loss"));
  }
}
