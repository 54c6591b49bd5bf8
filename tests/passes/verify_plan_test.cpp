// verify_plan: a plan is right, and each thing that can be wrong with one is found and named. Every plan here is that
// of plan_memory until a fault is planted in it.
#include <catch2/catch.hpp>
#include <functional>

#include "passes/plan_memory.h"

using namespace longhaul;

namespace {

// 4·16 float32 are 256 bytes; every named buffer is as large. einsum needs 128 bytes of scratch.
const char* const program =
    "graph \"g\" mesh(dp=1)\n"
    "input %0 : float32[4, 16] @[-, -] data \"x\"\n"
    "input %1 : float32[16, 16] @[-, -] parameter \"w\"\n"
    "input %2 : float32[4, 16] @[-, -] parameter \"s\"\n"
    "%3 : float32[4, 16] @[-, -] = einsum \"be,fe->bf\"(%0, %1) forward\n"
    "%4 : float32[4, 16] @[-, -] = activation(%3) {function=\"silu\"} forward\n"  // in place: 3 dies
    "%5 : float32[4, 16] @[-, -] = einsum \"be,fe->bf\"(%4, %1) forward\n"
    "%6 : float32[4, 16] @[-, -] = scale(%5) {factor=2.0} forward\n"  // 5 is read again
    "%7 : float32[4, 16] @[-, -] = einsum_add \"be,fe,bf->bf\"(%4, %1, %5) forward\n"
    "%8 : float32[4, 16] @[-, -] = add(%2, %6) forward\n"  // in place in the state's buffer
    "%9 : float32[] @[] = sum_squares(%7) forward\n"
    "output \"s\" %8\n"
    "output \"n\" %9\n"
    "output \"y\" %7\n";

struct Plan {
  Graph graph = parse_graph(program);
  NamedBuffers named = plan_named_buffers({&graph});
  MemoryPlan plan =
      plan_memory(graph, named, [](const Graph&, const Op& op) -> std::int64_t { return op.is("einsum") ? 128 : 0; });

  std::int64_t& place(std::size_t value) { return plan.value_offset[value]; }
  std::string problem() const { return verify_plan(graph, named, plan); }
};

// The fault is found, and its text has all of these.
void caught(const std::function<void(Plan&)>& plant, const std::vector<std::string>& texts) {
  Plan plan;
  REQUIRE(plan.problem() == "");
  plant(plan);
  const std::string problem = plan.problem();
  INFO("found: " << problem);
  CHECK_FALSE(problem.empty());
  for (const auto& text : texts) CHECK(problem.find(text) != std::string::npos);
}

}  // namespace

TEST_CASE("the plan is as the tests below assume") {
  Plan plan;
  CHECK(plan.problem() == "");
  CHECK(plan.place(3) == plan.place(4));  // in place
  CHECK(plan.place(8) == plan.place(2));  // the state
  CHECK(plan.place(7) == plan.named.slots["y"].offset);
  CHECK(plan.place(3) >= plan.named.bytes);
  CHECK(plan.plan.scratch_bytes[0] == 128);
}

TEST_CASE("a value over another that is read later") {
  caught([](Plan& p) { p.place(6) = p.place(5); }, {"op #3 scale: %6", "lies over %5", "op #4 einsum_add reads later"});
  // by a part of it only
  caught(
      [](Plan& p) {
        p.place(6) = p.place(5) + 192;
        p.plan.transient_bytes += 512;
      },
      {"op #3 scale: %6", "lies over %5"});
  // over an operand that dies there, where the op does not declare it
  caught([](Plan& p) { p.place(5) = p.place(4); },
         {"op #2 einsum: %5", "lies over %4", "op #4 einsum_add reads later"});
}

TEST_CASE("in place only where the op declares it, and reads the operand nowhere else") {
  caught([](Plan& p) { p.place(7) = p.place(4); }, {"op #4 einsum_add: %7", "lies over %4", "does not declare"});
  caught([](Plan& p) { std::swap(p.graph.ops[1].definition, p.graph.ops[0].definition); },
         {"op #1 einsum: %4", "lies over %3", "does not declare"});
  caught([](Plan& p) { p.graph.ops[5].operands[1] = 2; }, {"op #5 add: %8", "lies over %2", "does not declare"});
  caught([](Plan& p) { p.graph[4].shape = {4, 8}; }, {"op #1 activation: %4", "lies over %3"});
}

TEST_CASE("a state whose old value is read after the new one is made") {
  caught([](Plan& p) { p.graph.ops[6].operands[0] = 2; },
         {"op #5 add: %8", "lies over %2", "op #6 sum_squares reads later"});
}

TEST_CASE("an output waits for its copy") {
  const auto elsewhere = [](Plan& p) {
    const std::int64_t there = p.place(4);  // free by then
    p.plan.final_copies.push_back({there, p.place(8), 256});
    p.place(8) = there;
  };
  Plan plan;
  elsewhere(plan);
  CHECK(plan.problem() == "");
  caught(
      [&](Plan& p) {
        elsewhere(p);
        p.place(9) = p.place(8);
      },
      {"op #6 sum_squares: %9", "lies over %8", "an output"});
  caught([](Plan& p) { p.place(7) = p.place(5); }, {"output y never comes to its buffer"});  // in place, as it may
}

TEST_CASE("scratch over a value that lives") {
  caught([](Plan& p) { p.plan.scratch_offset[2] = p.place(4); }, {"op #2 einsum", "its scratch", "lies over %4"});
  caught([](Plan& p) { p.plan.scratch_offset[2] = p.place(5) + 64; },
         {"its scratch", "lies over %5", "which it makes as well"});
}

TEST_CASE("beyond the arena, in a stranger's buffer, nowhere, misaligned") {
  caught([](Plan& p) { p.place(6) = p.named.bytes + p.plan.transient_bytes - 192; },
         {"op #3 scale: %6", "beyond the arena"});
  caught([](Plan& p) { p.plan.scratch_offset[0] = p.named.bytes + p.plan.transient_bytes - 64; },
         {"its scratch", "beyond the arena"});
  caught([](Plan& p) { p.plan.scratch_offset[0] = p.place(0); }, {"its scratch", "lies in named buffers"});
  caught([](Plan& p) { p.place(6) = p.place(0); }, {"op #3 scale: %6", "a named buffer that is not its own"});
  caught([](Plan& p) { p.place(6) = -1; }, {"op #3 scale: %6", "no place"});
  caught(
      [](Plan& p) {
        p.place(6) += 4;
        p.plan.transient_bytes += 64;
      },
      {"op #3 scale: %6", "not aligned to 64"});
  caught([](Plan& p) { p.plan.scratch_offset[0] += 32; }, {"its scratch", "not aligned to 64"});
  caught([](Plan& p) { p.place(0) = p.place(1); }, {"input x", "not in its buffer"});
}

TEST_CASE("named buffers lie apart") {
  caught([](Plan& p) { p.named.slots["w"].offset = p.named.slots["s"].offset; }, {"buffer w", "lies over buffer s"});
  caught([](Plan& p) { p.named.slots["w"].bytes += 1 << 20; }, {"buffer w", "beyond"});
  caught([](Plan& p) { p.named.slots["w"].offset += 8; }, {"buffer w", "not aligned"});
}

TEST_CASE("copies of outputs") {
  // Outputs that are inputs of other names come to their buffers by copies; the reader goes first.
  const auto graph = parse_graph(
      "graph \"g\" mesh(dp=1)\n"
      "input %0 : float64[4] @[-] parameter \"a\"\n"
      "input %1 : float64[4] @[-] parameter \"b\"\n"
      "output \"a\" %1\n"
      "output \"c\" %0\n");
  const NamedBuffers named = plan_named_buffers({&graph});
  const MemoryPlan good = plan_memory(graph, named, [](const Graph&, const Op&) -> std::int64_t { return 0; });
  REQUIRE(good.final_copies.size() == 2);
  const auto problem = [&](const std::function<void(MemoryPlan&)>& plant) {
    MemoryPlan plan = good;
    plant(plan);
    return verify_plan(graph, named, plan);
  };
  CHECK(problem([](MemoryPlan&) {}) == "");
  CHECK(problem([](MemoryPlan& p) { std::swap(p.final_copies[0], p.final_copies[1]); }) ==
        "output c: it is copied after a copy has overwritten it");
  CHECK(problem([](MemoryPlan& p) { p.final_copies.pop_back(); }) == "output a never comes to its buffer");
  CHECK(problem([](MemoryPlan& p) { p.final_copies[0].bytes -= 8; }).find("brings no output to its buffer") !=
        std::string::npos);
  CHECK(problem([](MemoryPlan& p) { p.final_copies.push_back(p.final_copies[0]); }).find("brings no output") !=
        std::string::npos);
}

namespace {

// Two values go out and come back; the second copy out takes no place of the first.
const char* const moving =
    "graph \"g\" mesh(dp=1)\n"
    "input %0 : float32[4, 16] @[-, -] data \"x\"\n"
    "%1 : float32[4, 16] @[-, -] = scale(%0) {factor=2.0} forward\n"
    "%2 : float32[4, 16] @[-, -] host = offload.start(%1) forward\n"
    "%3 : float32[4, 16] @[-, -] = scale(%0) {factor=3.0} forward\n"
    "%4 : float32[4, 16] @[-, -] host = offload.wait(%2, %1) forward\n"
    "%5 : float32[4, 16] @[-, -] host = offload.start(%3) forward\n"
    "%6 : float32[4, 16] @[-, -] host = offload.wait(%5, %3) forward\n"
    "%7 : float32[4, 16] @[-, -] = reload.start(%6) backward\n"
    "%8 : float32[4, 16] @[-, -] = reload.wait(%7, %6) backward\n"
    "%9 : float32[4, 16] @[-, -] = reload.start(%4) backward\n"
    "%10 : float32[] @[] = sum_squares(%8) backward\n"
    "%11 : float32[4, 16] @[-, -] = reload.wait(%9, %4) backward\n"
    "%12 : float32[] @[] = sum_squares(%11) backward\n"
    "output \"a\" %10\n"
    "output \"b\" %12\n";

}  // namespace

TEST_CASE("both arenas are planned and held to the same rules") {
  const Graph graph = parse_graph(moving);
  const NamedBuffers named = plan_named_buffers({&graph});
  const MemoryPlan good = plan_memory(graph, named, [](const Graph&, const Op&) -> std::int64_t { return 0; });
  CHECK(good.host.transient_bytes == 512);
  CHECK(good.host.peak_live_bytes == 512);
  CHECK(good.host.peak_op == 4);
  CHECK(good.host.peak_by_category[static_cast<std::size_t>(MemoryCategory::saved_activations)] == 512);
  CHECK(good.transient_bytes == 512);  // two values at a time on the device
  const auto at = [&](int value) { return good.value_offset[static_cast<std::size_t>(value)]; };
  CHECK(at(2) == at(4));  // a wait's result lies where its copy went
  CHECK(at(9) == at(11));
  CHECK(at(4) != at(6));
  CHECK(at(2) == 0);  // host memory holds no named buffers
  const auto problem = [&](const std::function<void(std::vector<std::int64_t>&, MemoryPlan&)>& plant) {
    MemoryPlan plan = good;
    plant(plan.value_offset, plan);
    const std::string said = verify_plan(graph, named, plan);
    INFO(said);
    CHECK_FALSE(said.empty());
    return said;
  };
  // A host buffer reused while its value has not gone back.
  CHECK(problem([](auto& place, MemoryPlan&) { place[5] = place[6] = place[4]; })
            .find("op #4 offload.start: %5 at [0, 256) of host memory lies over %4 at [0, 256) of host memory, which "
                  "op #10 "
                  "reload.wait reads later") == 0);
  // A device buffer given away while it is being copied out, or in.
  CHECK(problem([](auto& place, MemoryPlan&) { place[3] = place[1]; }).find("op #2 scale: %3") == 0);
  CHECK(problem([](auto& place, MemoryPlan&) { place[9] = place[8]; }).find("op #8 reload.start: %9") == 0);
  CHECK(problem([](auto& place, MemoryPlan& plan) {
          place[5] = place[6] = 512;
          plan.host.transient_bytes = 512;
        }).find("ends beyond the host arena of 512 bytes") != std::string::npos);
  CHECK(problem([](auto& place, MemoryPlan&) { place[2] = -1; }).find("no place") != std::string::npos);
}
