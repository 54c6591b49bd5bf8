// coalesce: collectives that can travel together do; what depends, differs or is too large does not.
#include <catch2/catch.hpp>
#include <cstring>

#include "base/error.h"
#include "comm/launch.h"
#include "ir/verifier.h"
#include "passes/pass.h"
#include "runtime/cpu/target.h"
#include "tests/passes/pass_text.h"
#include "tests/passes/shards.h"
#include "tests/passes/small_models.h"

using namespace longhaul;

namespace {

const std::string header =
    "graph \"g\" mesh(dp=2, sp=2)\n"
    "input %0 : float32[1, 8, 4, 6] @[-, sp, -, -] data \"q\"\n"
    "input %1 : float32[1, 8, 2, 6] @[-, sp, -, -] data \"k\"\n"
    "input %2 : bfloat16[1, 8, 2, 6] @[-, sp, -, -] data \"v\"\n"
    "input %3 : float32[8, 4] @[-, -]sum(dp.sp) accumulator \"a\"\n"   // 128 bytes
    "input %4 : float32[5] @[-]sum(dp.sp) accumulator \"b\"\n"         // 20 bytes
    "input %5 : float32[16] @[-]sum(dp.sp) accumulator \"c\"\n"        // 64 bytes
    "input %6 : float32[5] @[-]flat(dp.sp) accumulator \"d\"\n"        // 8 bytes, 20 unsharded
    "input %7 : float32[8, 4] @[-, -]flat(dp.sp) accumulator \"e\"\n"  // 32 bytes, 128 unsharded
    "input %8 : bfloat16[5] @[-]sum(dp.sp) accumulator \"f\"\n";

Graph coalesced(const std::string& lines, std::int64_t bucket_size = 1000, std::int64_t overlap_memory = 0) {
  Graph graph = parse_graph(header + lines);
  REQUIRE(verify(graph, Stage::lowered) == "");
  CompileOptions options;
  options.schedule.bucket_size = bucket_size;
  options.schedule.overlap_memory = overlap_memory;
  passes::coalesce(graph, {options, ProgramKind::evaluate});
  REQUIRE(verify(graph, Stage::lowered) == "");
  const std::string text = print(graph);
  CHECK(print(parse_graph(text)) == text);
  return graph;
}

// What is left of a line: "name(operands)" for each op in order.
std::string ops(const Graph& graph) {
  std::string text;
  for (const Op& op : graph.ops) {
    text += (text.empty() ? "" : " ") + op.definition->name + "(";
    for (std::size_t i = 0; i < op.operands.size(); ++i) text += (i ? "," : "") + std::to_string(op.operands[i]);
    text += ")";
  }
  return text;
}

const std::string reduce_a =
    "%10 : float32[8, 4] @[-, -]flat(dp.sp) = reduce_scatter(%3) {axes=<dp.sp>} backward layer=1\n";
const std::string reduce_b = "%11 : float32[5] @[-]flat(dp.sp) = reduce_scatter(%4) {axes=<dp.sp>} backward layer=0\n";
const std::string reduce_c = "%12 : float32[16] @[-]flat(dp.sp) = reduce_scatter(%5) {axes=<dp.sp>} backward layer=0\n";
const std::string unrelated = "%20 : float64[] @[]sum(sp) = sum_squares(%1) backward\n";

}  // namespace

TEST_CASE("q, k and v travel in one exchange, whatever their dtypes and the size of a bucket") {
  const std::string exchange =
      "%10 : float32[1, 8, 4, 6] @[-, -, sp, -] = all_to_all(%0) {axes=<sp>, dimension=1, split=2} forward layer=3 "
      "by=partition\n"
      "%11 : float32[1, 8, 2, 6] @[-, -, sp, -] = all_to_all(%1) {axes=<sp>, dimension=1, split=2} forward layer=3 "
      "by=partition\n"
      "%12 : bfloat16[1, 8, 2, 6] @[-, -, sp, -] = all_to_all(%2) {axes=<sp>, dimension=1, split=2} forward layer=3 "
      "by=partition\n"
      "%13 : float32[1, 8, 4, 6] @[-, -, sp, -] = scale(%10) {factor=2.0} forward layer=3\n"
      "output \"a\" %13\noutput \"b\" %11\noutput \"c\" %12\n";
  for (const std::int64_t bucket_size : {0, 1, 1000}) {
    const Graph graph = coalesced(exchange, bucket_size);
    CHECK(print(graph).find(
              "%10 : float32[1, 8, 4, 6] @[-, -, sp, -], %11 : float32[1, 8, 2, 6] @[-, -, sp, -], %12 : bfloat16[1, "
              "8, 2, 6] @[-, -, sp, -] = all_to_all(%0, %1, %2) {axes=<sp>, dimension=1, split=2} forward layer=3 "
              "by=partition\n%13") != std::string::npos);
  }
}

TEST_CASE("gradients are summed in buckets") {
  const std::string outputs = "output \"a\" %10\noutput \"b\" %11\noutput \"c\" %12\n";
  const std::string all = reduce_a + unrelated + reduce_b + reduce_c + outputs + "output \"s\" %20\n";
  CHECK(ops(coalesced(all)) == "sum_squares(1) reduce_scatter(3,4,5)");
  CHECK(coalesced(all).ops[1].layer == -1);  // of several layers
  SECTION("as far as a bucket holds") {
    CHECK(ops(coalesced(all, 212)) == "sum_squares(1) reduce_scatter(3,4,5)");
    CHECK(ops(coalesced(all, 211)) == "sum_squares(1) reduce_scatter(3,4) reduce_scatter(5)");
    CHECK(ops(coalesced(all, 100)) == "reduce_scatter(3) sum_squares(1) reduce_scatter(4,5)");  // %3 travels alone
    CHECK(ops(coalesced(all, 0)) == "reduce_scatter(3) sum_squares(1) reduce_scatter(4) reduce_scatter(5)");
  }
  SECTION("and what is pointwise waits behind them") {
    const std::string add = "%13 : float32[5] @[-]flat(dp.sp) = add(%6, %11) backward\n";
    CHECK(ops(coalesced(reduce_b + add + reduce_c + "output \"a\" %13\noutput \"b\" %12\n")) ==
          "reduce_scatter(4,5) add(6,11)");
  }
}

TEST_CASE("whole gradients are summed, and shards gathered, in buckets") {
  CHECK(ops(coalesced("%10 : float32[8, 4] @[-, -] = all_reduce(%3) {axes=<dp.sp>} backward\n" + unrelated +
                      "%11 : float32[5] @[-] = all_reduce(%4) {axes=<dp.sp>} backward\n"
                      "output \"a\" %10\noutput \"b\" %11\noutput \"s\" %20\n")) == "sum_squares(1) all_reduce(3,4)");
  const auto gathers = [](int layer) {
    return fmt::format(
        "%10 : float32[8, 4] @[-, -] = all_gather(%7) {{axes=<dp.sp>}} forward layer=0\n"
        "%11 : float32[8, 8] @[-, -] = einsum \"ab,cb->ac\"(%10, %10) forward layer=0\n"
        "%12 : float32[5] @[-] = all_gather(%6) {{axes=<dp.sp>}} forward layer={0}\n"
        "%13 : float32[5, 5] @[-, -] = einsum \"a,b->ab\"(%12, %12) forward layer={0}\n"
        "output \"a\" %11\noutput \"b\" %13\n",
        layer);
  };
  CHECK(ops(coalesced(gathers(0))) == "all_gather(7,6) einsum(10,10) einsum(12,12)");
  CHECK(ops(coalesced(gathers(0), 147)) == "all_gather(7) einsum(10,10) all_gather(6) einsum(12,12)");
  // Shards of the next layer wait for it: nothing is gathered long before its use.
  CHECK(ops(coalesced(gathers(1))) == "all_gather(7) einsum(10,10) all_gather(6) einsum(12,12)");
}

TEST_CASE("a chain of collectives of several tensors is a chain of messages") {
  // k and v: exchanged over sp, then gathered over dp.
  Graph graph = parse_graph(
      "graph \"g\" mesh(dp=2, sp=2)\n"
      "input %0 : float32[1, 8, 2, 6] @[-, dp.sp, -, -] data \"k\"\n"
      "input %1 : float32[1, 8, 2, 6] @[-, dp.sp, -, -] data \"v\"\n"
      "%2 : float32[1, 8, 2, 6] @[-, dp, sp, -] = all_to_all(%0) {axes=<sp>, dimension=1, split=2} forward\n"
      "%3 : float32[1, 8, 2, 6] @[-, -, sp, -] = all_gather(%2) {axes=<dp>, dimension=1} forward\n"
      "%4 : float32[1, 8, 2, 6] @[-, dp, sp, -] = all_to_all(%1) {axes=<sp>, dimension=1, split=2} forward\n"
      "%5 : float32[1, 8, 2, 6] @[-, -, sp, -] = all_gather(%4) {axes=<dp>, dimension=1} forward\n"
      "output \"k\" %3\noutput \"v\" %5\n");
  const CompileOptions options;
  passes::coalesce(graph, {options, ProgramKind::evaluate});
  CHECK(verify(graph, Stage::lowered) == "");
  CHECK(ops(graph) == "all_to_all(0,1) all_gather(2,4)");
}

TEST_CASE("where collectives run beside computation, what an op reads does not wait for what it makes") {
  const std::string lines =
      "%9 : float32[1, 8, 2, 6] @[-, sp, -, -] = scale(%1) {factor=2.0} backward\n"
      "%10 : float32[1, 8, 2, 6] @[-, sp+1, -, -] = shift(%1) {axes=<sp>, by=1, dimension=1} backward\n"
      "%11 : bfloat16[1, 8, 2, 6] @[-, sp+1, -, -] = shift(%2) {axes=<sp>, by=1, dimension=1} backward\n"
      "%12 : float32[1, 8, 2, 6] @[-, sp+1, -, -] = shift(%9) {axes=<sp>, by=1, dimension=1} backward\n";
  CHECK(ops(coalesced(lines)) == "scale(1) shift(1,2,9)");
  CHECK(ops(coalesced(lines, 1000, any_memory)) == "scale(1) shift(1,2) shift(9)");
}

TEST_CASE("casts of what moves stand before the message") {
  CHECK(
      ops(coalesced("%10 : bfloat16[1, 8, 4, 6] @[-, sp, -, -] = cast(%0) backward\n"
                    "%11 : bfloat16[1, 8, 4, 6] @[-, sp+1, -, -] = shift(%10) {axes=<sp>, by=1, dimension=1} backward\n"
                    "%12 : bfloat16[1, 8, 2, 6] @[-, sp, -, -] = cast(%1) backward\n"
                    "%13 : bfloat16[1, 8, 2, 6] @[-, sp+1, -, -] = shift(%12) {axes=<sp>, by=1, dimension=1} backward\n"
                    "output \"a\" %11\noutput \"b\" %13\n")) == "cast(0) cast(1) shift(10,12)");
}

TEST_CASE("coalesce does not fire") {
  const auto stays = [](const std::string& lines) {
    INFO(lines);
    const Graph before = parse_graph(header + lines), after = coalesced(lines);
    CHECK(after.ops.size() == before.ops.size());  // if not in this order
  };
  // One needs another's result.
  stays(reduce_b +
        "%13 : float64[] @[]sum(dp.sp) = sum_squares(%11) backward\n"
        "%14 : float64[] @[] = all_reduce(%13) {axes=<dp.sp>} backward\n"
        "%15 : float32[5] @[-] = all_gather(%11) {axes=<dp.sp>} backward\n"
        "%16 : float32[5] @[-]flat(dp.sp) = slice(%15) {axes=<dp.sp>} backward\n"
        "%17 : float32[5] @[-] = all_gather(%16) {axes=<dp.sp>} backward\n"
        "output \"a\" %14\noutput \"b\" %17\n");
  // Or at once: a shift twice.
  stays(
      "%10 : float32[1, 8, 4, 6] @[-, sp+1, -, -] = shift(%0) {axes=<sp>, by=1, dimension=1} forward\n"
      "%11 : float32[1, 8, 4, 6] @[-, sp, -, -] = shift(%10) {axes=<sp>, by=1, dimension=1} forward\n"
      "output \"a\" %11\n");
  // Other axes.
  stays(reduce_a + "%11 : float32[5] @[-]flat(dp)sum(sp) = reduce_scatter(%4) {axes=<dp>} backward layer=0\n" +
        "output \"a\" %10\noutput \"b\" %11\n");
  // Other dimensions.
  stays(
      "%10 : float32[1, 8, 4, 6] @[-, -, sp, -] = all_to_all(%0) {axes=<sp>, dimension=1, split=2} forward\n"
      "%11 : float32[1, 8, 2, 6] @[-, -, -, sp] = all_to_all(%1) {axes=<sp>, dimension=1, split=3} forward\n"
      "output \"a\" %10\noutput \"b\" %11\n");
  // Another kind.
  stays(reduce_a + "%11 : float32[5] @[-] = all_reduce(%4) {axes=<dp.sp>} backward layer=0\n" +
        "output \"a\" %10\noutput \"b\" %11\n");
  // Sums of other dtypes.
  stays(reduce_b + "%12 : bfloat16[5] @[-]flat(dp.sp) = reduce_scatter(%8) {axes=<dp.sp>} backward layer=0\n" +
        "output \"a\" %11\noutput \"b\" %12\n");
  // Made by another pass, or in another phase: tables tell them apart.
  stays(reduce_b + "%12 : float32[16] @[-]flat(dp.sp) = reduce_scatter(%5) {axes=<dp.sp>} update by=someone\n" +
        "output \"a\" %11\noutput \"b\" %12\n");
  // Activations do not wait for others further on.
  stays("%10 : float32[1, 8, 4, 6] @[-, -, sp, -] = all_to_all(%0) {axes=<sp>, dimension=1, split=2} forward\n" +
        unrelated +
        "%11 : float32[1, 8, 2, 6] @[-, -, sp, -] = all_to_all(%1) {axes=<sp>, dimension=1, split=2} forward\n"
        "output \"a\" %10\noutput \"b\" %11\n");
}

TEST_CASE("a message of several dtypes arrives whole", "[threads]") {
  Graph graph = coalesced(
      "%10 : float32[1, 8, 4, 6] @[-, -, sp, -] = all_to_all(%0) {axes=<sp>, dimension=1, split=2} forward\n"
      "%12 : bfloat16[1, 8, 2, 6] @[-, -, sp, -] = all_to_all(%2) {axes=<sp>, dimension=1, split=2} forward\n"
      "%13 : float32[1, 8, 2, 6] @[-, -, sp, -] = all_to_all(%1) {axes=<sp>, dimension=1, split=2} forward\n"
      "output \"q\" %10\noutput \"v\" %12\noutput \"k\" %13\n");
  REQUIRE(graph.ops.size() == 1);
  std::erase_if(graph.inputs, [](const Binding& input) { return input.value > 2; });
  run_threads(4, [&](Communicator& world) {
    std::map<std::string, HostTensor> given;
    const auto number = [](std::int64_t element) { return static_cast<double>(element * 7 % 31 - 15); };
    for (const auto& input : graph.inputs) {
      const Value& value = graph[input.value];
      HostTensor tensor({local_shape(value.shape, value.layout, graph.mesh), value.dtype});
      const auto elements = test::elements_of(value.shape, value.layout, graph.mesh, world.rank());
      for (std::size_t i = 0; i < elements.size(); ++i) tensor.set(static_cast<std::int64_t>(i), number(elements[i]));
      given[input.name] = std::move(tensor);
    }
    Interpreter interpreter({});
    const auto results = interpreter.run_rank(graph, given, world);
    for (const auto& output : graph.outputs) {
      const Value& value = graph[output.value];
      const auto elements = test::elements_of(value.shape, value.layout, graph.mesh, world.rank());
      for (std::size_t i = 0; i < elements.size(); ++i)
        LONGHAUL_CHECK(results.at(output.name).at(static_cast<std::int64_t>(i)) == number(elements[i]), "{}[{}] is {}",
                       output.name, i, results.at(output.name).at(static_cast<std::int64_t>(i)));
    }
    return 0;
  });
}

TEST_CASE("buckets of any size change what a run computes in no bit, and memory by no more than a few buckets",
          "[threads]") {
  for (const int zero_stage : {0, 1, 2, 3})
    for (const DType dtype : {DType::float32, DType::bfloat16}) {
      CompileRequest request = test::request(test::llama_like(), test::mesh(2, 2), zero_stage, dtype);
      std::vector<std::map<std::string, std::string>> alone;  // the bytes of outputs, by rank
      std::int64_t arena = 0, calls = 0, sent_alone = 0;
      for (const std::int64_t bucket_size : {0, 300, 1 << 20}) {
        INFO("ZeRO " << zero_stage << ", " << name_of(dtype) << ", buckets of " << bucket_size);
        request.options.schedule.bucket_size = bucket_size;
        const CompiledModel model = compile_model(request);
        std::vector<std::map<std::string, std::string>> outputs(4);
        run_threads(4, [&](Communicator& world) {
          CpuTarget cpu;
          const auto executor = cpu.executor(world, model.all(), model.named);
          for (std::size_t p = 0; p < model.programs.size(); ++p) {
            const Graph& graph = model.programs[p]->graph;
            const auto inputs = test::random_inputs(graph);
            for (const auto& input : graph.inputs) {
              const Value& value = graph[input.value];
              const auto elements = test::elements_of(value.shape, value.layout, graph.mesh, world.rank());
              HostTensor shard({local_shape(value.shape, value.layout, graph.mesh), value.dtype});
              for (std::size_t i = 0; i < elements.size(); ++i)
                shard.set(static_cast<std::int64_t>(i), elements[i] < 0 ? 0 : inputs.at(input.name).at(elements[i]));
              std::memcpy(executor->host_view(input.name).data(), shard.data(), shard.bytes.size());
            }
            executor->run(p);
            for (const auto& output : graph.outputs) {
              const Value& value = graph[output.value];
              const auto bytes =
                  size_of(value.dtype) * static_cast<std::size_t>(local_count(value.shape, value.layout, graph.mesh));
              outputs[static_cast<std::size_t>(world.rank())][graph.name + " " + output.name] =
                  std::string(reinterpret_cast<const char*>(executor->host_view(output.name).data()), bytes);
            }
          }
          return 0;
        });
        std::int64_t now = 0, sent = 0;
        for (const auto& program : model.programs)
          for (const TrafficRow& row : predicted_traffic("", *program, 0)) {
            now += row.calls;
            sent += row.bytes_sent;
          }
        if (bucket_size == 0) {
          alone = outputs;
          arena = model.arena_bytes;
          calls = now;
          sent_alone = sent;
          continue;
        }
        CHECK(outputs == alone);
        CHECK(now < calls);
        CHECK(sent == sent_alone);
        // What waits, its staging on one side or both, the sum's scratch; 64 bytes a tensor for alignment.
        CHECK(model.arena_bytes <= arena + 4 * std::min<std::int64_t>(bucket_size, 1 << 14) + 64 * 40);
      }
    }
}
