// recompute: what the backward pass makes again, from what, and what it must leave alone; and that a step's numbers
// stay the same bits.
#include <catch2/catch.hpp>
#include <map>

#include "ir/op_definition.h"
#include "ir/verifier.h"
#include "passes/recompute.h"
#include "tests/passes/pass_text.h"
#include "tests/passes/small_models.h"

using namespace longhaul;

namespace {

// A layer: two norms' worth of cheap ops around a product. x comes from outside, y leaves.
const std::string layer =
    "graph \"g\" mesh(dp=1)\n"
    "input %0 : float32[4, 64, 1024] @[-, -, -] data \"x\"\n"
    "input %1 : float32[1024] @[-] parameter \"norm\"\n"
    "input %2 : float32[3072, 1024] @[-, -] parameter \"w\"\n"
    "input %3 : float32[4, 64, 3072] @[-, -, -] data \"dz\"\n"
    "%4 : float32[4, 64, 1024] @[-, -, -] = rms_norm(%0, %1) {epsilon=1e-05} forward layer=0\n"
    "%5 : float32[4, 64, 3072] @[-, -, -] = einsum \"bse,fe->bsf\"(%4, %2) forward layer=0\n"
    "%6 : float32[4, 64, 3072] @[-, -, -] = activation(%5) {kind=\"silu\"} forward layer=0\n"
    "%7 : float32[4, 64, 3072] @[-, -, -] = activation_gradient(%5, %3) {kind=\"silu\"} backward layer=0\n"
    "%8 : float32[3072, 3072] @[-, -] = einsum \"bsf,bsg->fg\"(%6, %3) backward layer=0\n"
    "%9 : float32[3072, 1024] @[-, -] = einsum \"bsf,bse->fe\"(%7, %4) backward layer=0\n"
    "output \"dw\" %9\n"
    "output \"dv\" %8\n";

Graph recomputed(const std::string& text, const Schedule& schedule, ProgramKind kind = ProgramKind::accumulate_only) {
  Graph graph = parse_graph(text);
  CompileOptions options;
  options.schedule = schedule;
  passes::recompute(graph, {options, kind});
  CHECK(verify(graph, Stage::placed) == "");
  return graph;
}
Schedule steps(int count) {
  Schedule schedule;
  schedule.recompute_steps = {count};
  return schedule;
}
Schedule with_mode(ActivationMode mode) {
  Schedule schedule;
  schedule.activations = mode;
  return schedule;
}

std::vector<std::string> clones(const Graph& graph) {
  std::vector<std::string> names;
  for (const Op& op : graph.ops)
    if (op.made_by == "recompute") names.push_back(op.definition->name);
  return names;
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  for (std::size_t at; (at = text.find(from)) != std::string::npos;) text.replace(at, from.size(), to);
  return text;
}

}  // namespace

TEST_CASE("what is made again stands before its first use in backward, and reads what is kept") {
  using Names = std::vector<std::string>;
  // The activation costs least a byte, then the norm, whose input is there in any case; the product last.
  CHECK(print(recomputed(layer, steps(0))) == print(parse_graph(layer)));
  CHECK(clones(recomputed(layer, steps(1))) == Names{"activation"});
  CHECK(clones(recomputed(layer, steps(2))) == Names{"activation", "rms_norm"});
  CHECK(clones(recomputed(layer, steps(3))) == Names{"rms_norm", "einsum", "activation"});
  CHECK(print(recomputed(layer, steps(9))) == print(recomputed(layer, with_mode(ActivationMode::recompute))));
  const std::string text = print(recomputed(layer, steps(2)));
  CHECK(text.substr(text.find("%7 :")) ==
        R"(%7 : float32[4, 64, 3072] @[-, -, -] = activation_gradient(%5, %3) {kind="silu"} backward layer=0
%10 : float32[4, 64, 3072] @[-, -, -] = activation(%5) {kind="silu"} backward layer=0 by=recompute
%8 : float32[3072, 3072] @[-, -] = einsum "bsf,bsg->fg"(%10, %3) backward layer=0
%11 : float32[4, 64, 1024] @[-, -, -] = rms_norm(%0, %1) {epsilon=1e-05} backward layer=0 by=recompute
%9 : float32[3072, 1024] @[-, -] = einsum "bsf,bse->fe"(%7, %11) backward layer=0
output "dw" %9
output "dv" %8
)");
}

TEST_CASE("nothing is made again that is another's, that nobody reads, or that is too dear") {
  using enum ActivationMode;
  const Schedule all = with_mode(ActivationMode::recompute);
  CHECK(clones(recomputed(layer, with_mode(keep))).empty());
  CHECK(clones(recomputed(layer, all, ProgramKind::evaluate)).empty());
  CHECK(clones(recomputed(layer, all, ProgramKind::update)).empty());
  // Of no layer; of a layer before the one that reads it: block inputs stay.
  CHECK(clones(recomputed(replaced(layer, " layer=0", ""), all)).empty());
  CHECK(clones(recomputed(replaced(layer, "backward layer=0", "backward layer=1"), all)).empty());
  // Nothing of the forward pass is read.
  CHECK(clones(recomputed(replaced(layer, "forward", "backward"), all)).empty());
  // Attention's results stay, whatever is asked for; what only they need need not be made again.
  Graph attention = parse_graph(
      "graph \"g\" mesh(dp=1)\n"
      "input %0 : float32[1, 8, 2, 4] @[-, -, -, -] data \"q\"\n"
      "input %1 : int32[1, 8] @[-, -] data \"index\"\n"
      "input %2 : float32[1, 8, 2, 4] @[-, -, -, -] data \"do\"\n"
      "%3 : float32[1, 8, 2, 4] @[-, -, -, -], %4 : float32[1, 2, 8] @[-, -, -] = attention(%0, %0, %0, %1, %1, %1) "
      "{scale=0.5} forward layer=0\n"
      "%5 : float32[1, 8, 2] @[-, -, -] = attention_delta(%3, %2) backward layer=0\n"
      "%6 : float32[1, 8, 2, 4] @[-, -, -, -], %7 : float32[1, 8, 2, 4] @[-, -, -, -], %8 : float32[1, 8, 2, 4] "
      "@[-, -, -, -] = attention_gradient(%0, %0, %0, %1, %1, %1, %5, %4, %2) {scale=0.5} backward layer=0\n"
      "output \"dq\" %6\n"
      "output \"dk\" %7\n"
      "output \"dv\" %8\n");
  CHECK(clones(recomputed(print(attention), all)).empty());
}

TEST_CASE("auto makes again what costs two hundredths of its layer at most") {
  Schedule cheap = with_mode(ActivationMode::automatic);
  const Graph graph = parse_graph(layer);
  const auto menus = recompute_menus(graph, cheap);
  REQUIRE(menus.size() == 1);
  REQUIRE(menus[0].steps.size() == 3);
  CHECK(menus[0].kept_bytes == 4 * 64 * (1024 + 3072 + 3072) * 4);
  for (const RecomputeStep& step : menus[0].steps) CHECK(step.price > 0);
  CHECK(menus[0].steps[0].worth <= menus[0].steps[1].worth);
  CHECK(menus[0].within(0) == 0);
  CHECK(menus[0].within(1) == 3);
  // A machine that moves bytes for nothing: norms and activations are free, products are not.
  cheap.flops_per_byte = 1e-9;
  CHECK(clones(recomputed(layer, cheap)) == std::vector<std::string>{"activation", "rms_norm"});
  cheap.flops_per_byte = 1e9;  // one that computes for nothing: all that moves bytes is dear
  CHECK(clones(recomputed(layer, cheap)).empty());
}

TEST_CASE("a gathered operand is kept as the piece that it was gathered from") {
  // As keys and values that all ranks gather: the whole is made again from a quarter.
  const std::string text =
      "graph \"g\" mesh(a=4)\n"
      "input %0 : float32[4, 64, 32] @[-, a, -] data \"x\"\n"
      "input %1 : float32[4, 64, 32] @[-, -, -] data \"dy\"\n"
      "input %2 : float32[16, 32] @[-, -] parameter \"w\"\n"
      "%3 : float32[4, 64, 16] @[-, a, -] = einsum \"bse,fe->bsf\"(%0, %2) forward layer=0\n"
      "%4 : float32[4, 64, 16] @[-, -, -] = reshard(%3) forward layer=0\n"
      "%5 : float32[16, 32] @[-, -] = einsum \"bsf,bse->fe\"(%4, %1) backward layer=0\n"
      "output \"y\" %5\n";
  Graph graph = recomputed(text, steps(1));
  CHECK(clones(graph) == std::vector<std::string>{"reshard"});
  const auto menus = recompute_menus(parse_graph(text), Schedule());
  REQUIRE(menus[0].steps.size() >= 1);
  CHECK(menus[0].steps[0].bytes == 4 * 64 * 16 * 4 * 3 / 4);
}

// Over models, splits and stages of sharding, through the whole pipeline: a step's every output, as one device computes
// it, is the same bits whatever is made again.
TEST_CASE("what is made again is the same bits") {
  for (const auto& spec : {test::llama_like(), test::gpt2_like(), test::qwen3_like(), test::llama_like(1)})
    for (const Mesh& mesh : {test::mesh(1, 1), test::mesh(2, 2), Mesh({{"dp", 1}, {"ring", 2}, {"ulysses", 2}}),
                             Mesh({{"dp", 1}, {"gather", 4}, {"ulysses", 1}})})
      for (const int zero_stage : {0, 3})
        for (const DType dtype : {DType::float64, DType::bfloat16})
          for (const ProgramKind kind : {ProgramKind::accumulate_only, ProgramKind::accumulate_middle}) {
            CompileRequest request = test::request(spec, mesh, zero_stage, dtype);
            Interpreter interpreter({});
            std::map<std::string, HostTensor> expected;
            for (const ActivationMode mode :
                 {ActivationMode::keep, ActivationMode::automatic, ActivationMode::recompute}) {
              request.options.schedule.activations = mode;
              Graph graph = initial_graph(request, kind);
              run_passes(graph, {request.options, kind}, 0, static_cast<int>(pipeline().size()));
              INFO("mesh " << mesh.text() << ", ZeRO " << zero_stage << ", " << name_of(dtype) << ", mode "
                           << static_cast<int>(mode));
              if (mode != ActivationMode::automatic) CHECK(clones(graph).empty() == (mode == ActivationMode::keep));
              const auto given = interpreter.run(graph, test::random_inputs(graph));
              if (mode == ActivationMode::keep) expected = given;
              REQUIRE(given.size() == expected.size());
              for (const auto& [name, tensor] : given) {
                INFO(name);
                CHECK(tensor.bytes == expected.at(name).bytes);
              }
            }
          }
}

TEST_CASE("between the passes only block inputs and attention's results are kept, and a parameter is gathered twice") {
  CompileRequest request = test::request(test::llama_like(4), test::mesh(1, 2), 3, DType::bfloat16);
  const auto compiled = [&](ActivationMode mode) {
    request.options.schedule.activations = mode;
    return compile_model(request);
  };
  const auto gathers = [](const Graph& graph) {
    std::map<ValueId, int> count;
    for (const Op& op : graph.ops)
      if (op.is("all_gather"))
        for (const ValueId operand : op.operands)
          if (holds_parameter(graph[operand].role)) ++count[operand];
    return count;
  };
  const CompiledModel kept = compiled(ActivationMode::keep), again = compiled(ActivationMode::recompute);
  const Graph &graph = again.program(ProgramKind::accumulate_only).graph,
              &before = kept.program(ProgramKind::accumulate_only).graph;
  for (const auto& [parameter, count] : gathers(graph)) CHECK(count <= 2);
  CHECK(gathers(graph).size() == gathers(before).size());
  const auto maker = definitions(graph);
  const auto use = uses(graph);
  std::map<std::string, int> saved;  // of layer 1, by op
  for (std::size_t v = 0; v < graph.values.size(); ++v) {
    if (maker[v] < 0 || graph.ops[static_cast<std::size_t>(maker[v])].phase != Phase::forward) continue;
    const Op& op = graph.ops[static_cast<std::size_t>(maker[v])];
    for (const std::int32_t user : use[v])
      if (graph.ops[static_cast<std::size_t>(user)].phase == Phase::backward && op.layer == 1) {
        ++saved[op.definition->name];
        break;
      }
  }
  // The layer's result, attention's output in the sequence's layout and its statistics, each whole, of all chunks of
  // heads.
  CHECK(saved == std::map<std::string, int>{{"einsum_add", 1}, {"put_heads", 1}, {"join_rows", 1}});
}
