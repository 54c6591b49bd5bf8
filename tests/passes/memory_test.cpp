// plan_memory: no two live buffers overlap, state is updated in place, and a program run in its arena gives what the
// interpreter gives with a buffer for every value.
#include <catch2/catch.hpp>
#include <chrono>
#include <cstring>
#include <set>

#include "base/error.h"
#include "comm/launch.h"
#include "ir/op_definition.h"
#include "passes/plan_memory.h"
#include "runtime/cpu/target.h"
#include "tests/passes/small_models.h"

using namespace longhaul;

namespace {

std::int64_t bytes_of(const Graph& graph, ValueId id) {
  const Value& value = graph[id];
  return static_cast<std::int64_t>(size_of(value.dtype)) * local_count(value.shape, value.layout, graph.mesh);
}

// One stretch of memory that holds one content from op `begin` to op `end`, both included.
struct Lifetime {
  ValueId value;
  std::int64_t offset, bytes;
  std::int64_t begin, end;
};

// May a result take the place of an operand that dies in this op?
bool shares(const Graph& graph, const Lifetime& before, const Lifetime& after) {
  if (before.end != after.begin || before.offset != after.offset || before.bytes != after.bytes) return false;
  const Op& op = graph.ops[static_cast<std::size_t>(after.begin)];
  for (const auto& [result, operand] : op.definition->in_place)
    if (op.results[static_cast<std::size_t>(result)] == after.value &&
        op.operands[static_cast<std::size_t>(operand)] == before.value)
      return true;
  return false;
}

void check_plan(const Program& program, const NamedBuffers& named) {
  const Graph& graph = program.graph;
  const MemoryPlan& plan = program.plan;
  const auto ops = static_cast<std::int64_t>(graph.ops.size());
  std::vector<Lifetime> lifetimes;
  std::vector<std::int64_t> last(graph.values.size(), -2), copied(graph.values.size(), 0);
  for (std::int64_t i = 0; i < ops; ++i)
    for (ValueId operand : graph.ops[static_cast<std::size_t>(i)].operands) last[static_cast<std::size_t>(operand)] = i;
  std::set<std::string> outputs;
  for (const auto& output : graph.outputs) {
    last[static_cast<std::size_t>(output.value)] = ops;
    outputs.insert(output.name);
  }
  for (const auto& input : graph.inputs) {
    const auto& slot = named.slots.at(input.name);
    REQUIRE(plan.value_offset[static_cast<std::size_t>(input.value)] == slot.offset);
    // An input that no output replaces outlives the run: data and state that this program only reads.
    const auto end = outputs.count(input.name) ? last[static_cast<std::size_t>(input.value)] : ops;
    // Reduced gradients replace their accumulator.
    const bool replaced =
        input.is(Role::accumulator) && outputs.count(name_of(StateKey{Role::gradient, input.state->parameter}));
    lifetimes.push_back({input.value, slot.offset, bytes_of(graph, input.value), -1,
                         replaced ? last[static_cast<std::size_t>(input.value)] : end});
  }
  std::int64_t needed = 0;
  for (std::int64_t i = 0; i < ops; ++i) {
    const auto at = static_cast<std::size_t>(i);
    for (ValueId result : graph.ops[at].results) {
      const std::int64_t offset = plan.value_offset[static_cast<std::size_t>(result)];
      REQUIRE(offset >= 0);
      REQUIRE(offset % 64 == 0);
      lifetimes.push_back(
          {result, offset, bytes_of(graph, result), i, std::max(i, last[static_cast<std::size_t>(result)])});
    }
    if (plan.scratch_bytes[at] > 0)
      lifetimes.push_back({no_value, plan.scratch_offset[at], plan.scratch_bytes[at], i, i});
  }
  for (const auto& one : lifetimes) needed = std::max(needed, one.offset + one.bytes);
  REQUIRE(needed <= named.bytes + plan.transient_bytes);
  for (std::size_t a = 0; a < lifetimes.size(); ++a)
    for (std::size_t b = a + 1; b < lifetimes.size(); ++b) {
      const Lifetime &x = lifetimes[a], &y = lifetimes[b];
      if (x.end < y.begin || y.end < x.begin) continue;
      if (x.offset + x.bytes <= y.offset || y.offset + y.bytes <= x.offset) continue;
      if (x.value != no_value && y.value != no_value && (shares(graph, x, y) || shares(graph, y, x))) continue;
      FAIL("program " << graph.name << ": %" << x.value << " [" << x.offset << "+" << x.bytes << ", ops " << x.begin
                      << ".." << x.end << "] overlaps %" << y.value << " [" << y.offset << "+" << y.bytes << ", ops "
                      << y.begin << ".." << y.end << "]");
    }
  // What is live at any op, counted apart from the planner.
  std::int64_t peak = 0;
  for (std::int64_t i = 0; i < ops; ++i) {
    std::vector<std::pair<std::int64_t, std::int64_t>> ranges;
    for (const auto& one : lifetimes)
      if (one.offset >= named.bytes && one.begin <= i && i <= one.end)
        ranges.push_back({one.offset, one.offset + one.bytes});
    std::sort(ranges.begin(), ranges.end());
    std::int64_t live = 0, to = 0;
    for (const auto& [begin, end] : ranges) {
      live += std::max<std::int64_t>(0, end - std::max(begin, to));
      to = std::max(to, end);
    }
    peak = std::max(peak, live);
  }
  CHECK(plan.transient_bytes >= peak);
  CHECK(plan.peak_live_bytes >= peak);
  CHECK(plan.transient_bytes >= plan.peak_live_bytes);
  std::int64_t by_category = 0;
  for (std::int64_t bytes : plan.peak_by_category) by_category += bytes;
  CHECK(by_category == plan.peak_live_bytes);
  // Every output ends in its buffer.
  for (const auto& output : graph.outputs) {
    const std::int64_t target = named.slots.at(output.name).offset;
    const std::int64_t from = plan.value_offset[static_cast<std::size_t>(output.value)];
    int copies = 0;
    for (const auto& copy : plan.final_copies)
      copies += copy.from == from && copy.to == target && copy.bytes == bytes_of(graph, output.value);
    INFO(graph.name << ": " << output.name);
    CHECK(copies == (from == target ? 0 : 1));
  }
}

void fill(Executor& executor, const std::map<std::string, HostTensor>& inputs) {
  for (const auto& [name, tensor] : inputs) executor.write(name, 0, std::as_bytes(std::span(tensor.bytes)));
}

ScratchBytes no_scratch() {
  return [](const Graph&, const Op&) -> std::int64_t { return 0; };
}

}  // namespace

TEST_CASE("no two live buffers overlap") {
  for (DType dtype : {DType::float64, DType::bfloat16})
    for (const auto& spec : {test::llama_like(), test::gpt2_like(), test::qwen3_like()})
      for (const Mesh& mesh : {test::mesh(1, 1), test::mesh(2, 2), test::mesh(1, 4)})
        for (int zero_stage : {0, 1, 2, 3}) {
          const CompiledModel model = compile_model(test::request(spec, mesh, zero_stage, dtype));
          INFO("mesh " << mesh.text() << ", ZeRO " << zero_stage << ", " << name_of(dtype));
          for (const auto& program : model.programs) check_plan(*program, model.named);
          std::int64_t transient = 0;
          for (const auto& program : model.programs) transient = std::max(transient, program->plan.transient_bytes);
          CHECK(model.arena_bytes == model.named.bytes + transient);
        }
}

TEST_CASE("state is updated in place") {
  for (int zero_stage : {0, 1, 2, 3}) {
    const CompiledModel model = compile_model(test::request(test::llama_like(), test::mesh(2, 2), zero_stage));
    INFO("ZeRO " << zero_stage);
    for (const auto& program : model.programs) CHECK(program->plan.final_copies.empty());
    const Program& update = model.program(ProgramKind::update);
    int moments = 0;
    for (const Op& op : update.graph.ops)
      if (op.is("adamw"))
        for (std::size_t k : {0u, 1u}) {
          CHECK(update.plan.value_offset[static_cast<std::size_t>(op.results[k])] ==
                update.plan.value_offset[static_cast<std::size_t>(op.operands[k])]);
          ++moments;
        }
    CHECK(moments == 2 * static_cast<int>(parameters(test::llama_like()).size()));
  }
}

TEST_CASE("what a program's own buffers are counted as, at its peak") {
  const Graph graph = parse_graph(
      "graph \"g\" mesh(dp=2)\n"
      "input %0 : float32[4, 8] @[dp, -] data \"x\"\n"
      "input %1 : float32[8, 8] @[-, -]flat(dp) parameter \"w\"\n"
      "%2 : float32[8, 8] @[-, -] = all_gather(%1) {axes=<dp>} forward\n"               // kept whole for backward
      "%3 : float32[4, 8] @[-, -] = all_gather(%0) {axes=<dp>, dimension=0} forward\n"  // saved, though received
      "%4 : float32[4, 8] @[-, -] = add(%3, %3) forward\n"
      "%5 : float32[8, 8] @[-, -] \"g\" primal=%1 = add(%2, %2) backward\n"
      "%6 : float32[8, 8] @[-, -] = all_gather(%1) {axes=<dp>} backward\n"  // gathered again
      "%7 : float32[8, 8] @[-, -] = add(%5, %6) backward\n"
      "%8 : float64[] @[] = sum_squares(%7) backward\n"
      "%9 : float64[] @[] = sum_squares(%3) backward\n"
      "%10 : float64[] @[] = sum_squares(%4) backward\n"
      "output \"a\" %8\noutput \"b\" %9\noutput \"c\" %10\n");
  const auto planned = [&](Graph one) {
    const NamedBuffers named = plan_named_buffers({&one});
    return plan_memory(one, named, [](const Graph&, const Op&) -> std::int64_t { return 0; });
  };
  const auto of = [](const MemoryPlan& plan, MemoryCategory category) {
    return plan.peak_by_category[static_cast<std::size_t>(category)];
  };
  // All there is until the parameter goes: 256 bytes of it and of its gradient, 128 of each activation.
  const MemoryPlan plan = planned(graph);
  CHECK(plan.peak_op == 3);
  CHECK(of(plan, MemoryCategory::parameters) == 256);
  CHECK(of(plan, MemoryCategory::gradients) == 256);
  CHECK(of(plan, MemoryCategory::saved_activations) == 256);
  CHECK(of(plan, MemoryCategory::communication) == 0);
  CHECK(of(plan, MemoryCategory::transients) == 0);
  CHECK(plan.peak_live_bytes == 768);
  // Without it the peak is where the other copy has been gathered, which is no more than communication.
  Graph without = graph;
  without.ops[3].operands = {without.ops[4].results[0], without.ops[4].results[0]};
  std::swap(without.ops[3], without.ops[4]);
  without.ops.erase(without.ops.begin());
  const MemoryPlan again = planned(without);
  CHECK(again.peak_op == 3);
  CHECK(of(again, MemoryCategory::parameters) == 0);
  CHECK(of(again, MemoryCategory::communication) == 256);
  CHECK(of(again, MemoryCategory::gradients) == 256);
  CHECK(of(again, MemoryCategory::saved_activations) == 256);
}

TEST_CASE("a gradient shares its accumulator's buffer when they are equally large") {
  const CompiledModel sharded = compile_model(test::request(test::llama_like(), test::mesh(2, 2), 2));
  CHECK(sharded.named.slots.at("gradient.head.weight").offset ==
        sharded.named.slots.at("accumulator.head.weight").offset);
  const CompiledModel partial = compile_model(test::request(test::llama_like(), test::mesh(2, 2), 1));
  CHECK(partial.named.slots.at("gradient.head.weight").offset !=
        partial.named.slots.at("accumulator.head.weight").offset);
  // No other two names share.
  for (const CompiledModel* model : {&sharded, &partial})
    for (const auto& [a, x] : model->named.slots)
      for (const auto& [b, y] : model->named.slots) {
        if (a >= b || x.offset + x.bytes <= y.offset || y.offset + y.bytes <= x.offset) continue;
        INFO(a << " " << b);
        CHECK(a.starts_with("accumulator."));
        CHECK(b == "gradient." + a.substr(12));
      }
}

TEST_CASE("an old state that is read after its successor is made is copied at the end") {
  // y = 2 x takes the place of x, but z reads x after it.
  Graph graph = parse_graph(
      "graph \"g\" mesh(dp=1)\n"
      "input %0 : float64[40] @[-] parameter \"x\"\n"
      "%1 : float64[40] @[-] = scale(%0) {factor=2.0} update\n"
      "%2 : float64[40] @[-] = scale(%0) {factor=3.0} update\n"
      "%3 : float64[40] @[-] = scale(%2) {factor=2.0} update\n"  // must not take the place of y, which waits
      "%4 : float64[] @[] = sum_squares(%3) update\n"
      "output \"x\" %1\n"
      "output \"z\" %2\n"
      "output \"n\" %4\n");
  const auto run = [](const Graph& one) {
    Program program{one, {}};
    const NamedBuffers named = plan_named_buffers({&one});
    program.plan = plan_memory(one, named, cpu_scratch_bytes());
    check_plan(program, named);
    double x = 0, z = 0;
    run_threads(1, [&](Communicator& world) {
      CpuTarget cpu;
      const auto executor = cpu.executor(world, std::vector<const Program*>{&program}, named);
      reinterpret_cast<double*>(executor->host_view("x").data())[39] = 5;
      executor->run(0);
      x = reinterpret_cast<double*>(executor->host_view("x").data())[39];
      z = reinterpret_cast<double*>(executor->host_view("z").data())[39];
      return 0;
    });
    CHECK(x == 10);
    CHECK(z == 15);
    return program.plan.final_copies.size();
  };
  CHECK(run(graph) == 1);
  std::swap(graph.ops[0], graph.ops[1]);  // now x dies where its successor is made
  CHECK(run(graph) == 0);
}

TEST_CASE("a result takes the place of an operand only where the op reads it nowhere else") {
  const auto in_place = [](const std::string& operands) {
    const Graph graph = parse_graph(
        "graph \"g\" mesh(dp=1)\n"
        "input %0 : float64[4, 4] @[-, -] parameter \"x\"\n"
        "%1 : float64[4, 4] @[-, -] = scale(%0) {factor=2.0} forward\n"
        "%2 : float64[4, 4] @[-, -] = einsum_add \"be,fe,bf->bf\"" +
        operands +
        " forward\n"
        "%3 : float64[] @[] = sum_squares(%2) forward\n"
        "output \"y\" %3\n");
    const NamedBuffers named = plan_named_buffers({&graph});
    const MemoryPlan plan = plan_memory(graph, named, no_scratch());
    return plan.value_offset[1] == plan.value_offset[2];
  };
  CHECK(in_place("(%0, %0, %1)"));
  CHECK_FALSE(in_place("(%1, %0, %1)"));  // the product still reads it
  CHECK_FALSE(in_place("(%1, %0, %0)"));  // a factor, not the addend
}

TEST_CASE("gaps that best fit leaves are closed by placing buffers in another order") {
  // 128 bytes, then 64 that outlive them, then 192: too large for the place of the first.
  const Graph graph = parse_graph(
      "graph \"g\" mesh(dp=1)\n"
      "input %0 : float32[2] @[-] data \"two\"\n"
      "input %1 : float32[3] @[-] data \"three\"\n"
      "input %2 : float32[16] @[-] data \"x\"\n"
      "%3 : float32[2, 16] @[-, -] = einsum \"b,e->be\"(%0, %2) forward\n"
      "%4 : float32[16] @[-] = einsum \"be,b->e\"(%3, %0) forward\n"
      "%5 : float32[3, 16] @[-, -] = einsum \"c,e->ce\"(%1, %4) forward\n"
      "%6 : float32[] @[] = sum_squares(%5) forward\n"
      "%7 : float32[] @[] = sum_squares(%4) forward\n"
      "output \"a\" %6\n"
      "output \"b\" %7\n");
  const NamedBuffers named = plan_named_buffers({&graph});
  Program program{graph, plan_memory(graph, named, no_scratch())};
  check_plan(program, named);
  CHECK(program.plan.peak_live_bytes == 64 + 192);
  CHECK(program.plan.transient_bytes == program.plan.peak_live_bytes);
}

TEST_CASE("outputs that are inputs of other names") {
  Graph graph = parse_graph(
      "graph \"g\" mesh(dp=1)\n"
      "input %0 : float64[4] @[-] parameter \"a\"\n"
      "input %1 : float64[4] @[-] parameter \"b\"\n"
      "output \"a\" %1\n"
      "output \"c\" %0\n");
  Program program{graph, {}};
  const NamedBuffers named = plan_named_buffers({&graph});
  program.plan = plan_memory(graph, named, no_scratch());
  run_threads(1, [&](Communicator& world) {
    CpuTarget cpu;
    const auto executor = cpu.executor(world, std::vector<const Program*>{&program}, named);
    *reinterpret_cast<double*>(executor->host_view("a").data()) = 1;
    *reinterpret_cast<double*>(executor->host_view("b").data()) = 2;
    executor->run(0);
    CHECK(executor->scalar("a") == 2);
    CHECK(executor->scalar("b") == 2);
    CHECK(executor->scalar("c") == 1);
    return 0;
  });
  graph.outputs.push_back({"b", 0});  // an exchange, which no order of copies can do
  CHECK_THROWS_AS(plan_memory(graph, plan_named_buffers({&graph}), no_scratch()), std::logic_error);
}

namespace {

// Every program of a model on one rank: the same bits as the interpreter with the same kernels, twice.
void check_arena(const TransformerSpec& spec, int zero_stage, DType dtype, bool reference) {
  CompileRequest request = test::request(spec, test::mesh(1, 1), zero_stage, dtype);
  request.scratch = cpu_scratch_bytes({.reference_only = reference});
  const CompiledModel model = compile_model(request);
  InterpreterOptions options;
  options.reference_only = reference;
  Interpreter interpreter(options);
  run_threads(1, [&](Communicator& world) {
    CpuTarget cpu({.reference_only = reference});
    const auto executor = cpu.executor(world, model.all(), model.named);
    CHECK(executor->arena_bytes() == model.arena_bytes);
    for (std::size_t p = 0; p < model.programs.size(); ++p) {
      const Graph& graph = model.programs[p]->graph;
      const auto inputs = test::random_inputs(graph);
      const auto expected = interpreter.run(graph, inputs);
      for (int run = 0; run < 2; ++run) {  // whatever another program left in the transient part must not matter
        fill(*executor, inputs);
        executor->run(p);
        for (const auto& [name, value] : expected) {
          INFO(graph.name << ": " << name << ", " << name_of(dtype) << (reference ? ", reference" : ""));
          CHECK(std::memcmp(executor->host_view(name).data(), value.data(), value.bytes.size()) == 0);
        }
      }
    }
    return 0;
  });
}

}  // namespace

TEST_CASE("a program in its arena gives what the interpreter gives") {
  for (const auto& spec : {test::llama_like(), test::gpt2_like(), test::qwen3_like()})
    for (int zero_stage : {0, 3})
      for (DType dtype : {DType::float64, DType::float32, DType::bfloat16})
        for (const bool reference : {true, false}) check_arena(spec, zero_stage, dtype, reference);
}

TEST_CASE("compiling twice gives the same text") {
  for (int zero_stage : {0, 3}) {
    const CompileRequest request = test::request(test::qwen3_like(), test::mesh(2, 2), zero_stage, DType::bfloat16);
    const CompiledModel a = compile_model(request), b = compile_model(request);
    for (std::size_t p = 0; p < a.programs.size(); ++p) {
      CHECK(print(a.programs[p]->graph) == print(b.programs[p]->graph));
      CHECK(print(*a.programs[p]) == print(*b.programs[p]));
    }
  }
}

TEST_CASE("an 80-layer model compiles for 64 ranks", "[.timing]") {
  TransformerSpec spec = test::llama_like(8);
  LayerSpec& layer = spec.layers[0].layer;
  layer.attention.heads = 64;
  layer.attention.head_dim = layer.rope.rotary_dim = 128;
  layer.mlp.size = 28672;
  spec.hidden_size = 8192;
  spec.vocabulary = 128256;
  spec.layers[0].repeat = 80;
  CompileRequest request = test::request(spec, test::mesh(8, 8), 3, DType::bfloat16);
  request.batch = 8;
  request.sequence = 1 << 17;
  using Clock = std::chrono::steady_clock;
  const auto seconds = [](Clock::time_point since) {
    return std::chrono::duration<double>(Clock::now() - since).count();
  };
  std::map<std::string, double> per_pass;
  const auto begin = Clock::now();
  std::vector<Graph> graphs;
  for (ProgramKind kind : request.kinds) {
    auto at = Clock::now();
    Graph graph = initial_graph(request, kind);
    per_pass["(model)"] += seconds(at);
    at = Clock::now();
    run_passes(graph, {request.options, kind}, 0, static_cast<int>(pipeline().size()),
               [&](const Pass* pass, const Graph&) {
                 per_pass[pass ? std::string(pass->name) + " and verify" : "(before)"] += seconds(at);
                 at = Clock::now();
               });
    graphs.push_back(std::move(graph));
  }
  auto at = Clock::now();
  std::vector<const Graph*> pointers;
  for (const auto& graph : graphs) pointers.push_back(&graph);
  const NamedBuffers named = plan_named_buffers(pointers);
  per_pass["plan_named_buffers"] = seconds(at);
  at = Clock::now();
  for (const auto& graph : graphs) plan_memory(graph, named, no_scratch());
  per_pass["plan_memory without kernels' scratch"] = seconds(at);
  at = Clock::now();
  const ScratchBytes scratch = cpu_scratch_bytes({.reference_only = true});
  for (const auto& graph : graphs) plan_memory(graph, named, scratch);
  per_pass["plan_memory with reference kernels' scratch"] = seconds(at);
  at = Clock::now();
  const ScratchBytes fast = cpu_scratch_bytes();
  for (const auto& graph : graphs) plan_memory(graph, named, fast);
  per_pass["plan_memory with fast kernels' scratch"] = seconds(at);
  for (const auto& [pass, time] : per_pass) WARN(time << " s  " << pass);
  for (const auto& graph : graphs) WARN(graph.name << ": " << graph.ops.size() << " ops");
  WARN("all: " << seconds(begin) << " s");
  CHECK(seconds(begin) < 60);
}
