// Whole programs on ranks as threads, in float64: what the ranks hold afterwards is what the specification gives on one
// device. Every input is dealt out by its layout, every output put together from all ranks.
#include <catch2/catch.hpp>
#include <cstring>

#include "comm/launch.h"
#include "runtime/cpu/target.h"
#include "tests/passes/shards.h"
#include "tests/passes/small_models.h"

using namespace longhaul;

namespace {

// The shard of a rank; partial sums are dealt unevenly over the group that shares them.
void deal(const Value& value, const HostTensor& whole, const Mesh& mesh, int rank, char* buffer) {
  HostTensor shard({local_shape(value.shape, value.layout, mesh), value.dtype});
  const AxisList summed = test::list_of(value.layout.partial, mesh);
  const int share = mesh.index(summed, rank), shares = mesh.count(summed);
  const auto elements = test::elements_of(value.shape, value.layout, mesh, rank);
  for (std::size_t i = 0; i < elements.size(); ++i) {
    double x = elements[i] < 0 ? 0 : whole.at(elements[i]);
    if (shares > 1) x *= share == 0 ? 1 - 0.25 * (shares - 1) : 0.25;
    shard.set(static_cast<std::int64_t>(i), x);
  }
  std::memcpy(buffer, shard.data(), shard.bytes.size());
}

// Holds every replica against the whole tensor. Returns the worst difference, relative to the largest element.
double compare(const Value& value, const HostTensor& whole, const Mesh& mesh,
               const std::vector<std::vector<char>>& buffers) {
  const AxisList summed = test::list_of(value.layout.partial, mesh);
  double largest = 1, worst = 0;
  for (std::int64_t i = 0; i < whole.type.count(); ++i) largest = std::max(largest, std::abs(whole.at(i)));
  std::vector<HostTensor> shards;
  for (const auto& buffer : buffers) {
    shards.emplace_back(TensorType{local_shape(value.shape, value.layout, mesh), value.dtype});
    std::memcpy(shards.back().data(), buffer.data(), shards.back().bytes.size());
  }
  std::vector<char> seen(static_cast<std::size_t>(whole.type.count()), 0);
  for (int rank = 0; rank < mesh.world(); ++rank) {
    const auto elements = test::elements_of(value.shape, value.layout, mesh, rank);
    for (std::size_t i = 0; i < elements.size(); ++i) {
      double sum = 0;
      for (int member : mesh.group(summed, rank))
        sum += shards[static_cast<std::size_t>(member)].at(static_cast<std::int64_t>(i));
      const double expected = elements[i] < 0 ? 0 : whole.at(elements[i]);  // padding stays zero
      if (elements[i] >= 0) seen[static_cast<std::size_t>(elements[i])] = 1;
      const double difference = std::abs(sum - expected) / largest;
      if (!(difference <= worst)) worst = std::isfinite(difference) ? difference : 1e300;
    }
  }
  for (char one : seen)
    if (!one) return 1e300;  // nobody holds it
  return worst;
}

void check_ranks(const TransformerSpec& spec, const Mesh& mesh, int zero_stage, bool reference) {
  CompileRequest request = test::request(spec, mesh, zero_stage);
  request.scratch = cpu_scratch_bytes({.reference_only = reference});
  const CompiledModel model = compile_model(request);
  const int world = mesh.world();
  std::vector<std::map<std::string, HostTensor>> inputs, expected;
  Interpreter interpreter({});
  for (ProgramKind kind : request.kinds) {
    const Graph specified = specification(request, kind);
    inputs.push_back(test::random_inputs(specified));
    expected.push_back(interpreter.run(specified, inputs.back()));
  }
  using Buffers = std::vector<std::vector<char>>;  // by rank
  std::vector<std::map<std::string, Buffers>> results(model.programs.size());
  for (std::size_t p = 0; p < model.programs.size(); ++p)
    for (const auto& output : model.programs[p]->graph.outputs)
      results[p][output.name].resize(static_cast<std::size_t>(world));
  run_threads(world, [&](Communicator& communicator) {
    CpuTarget cpu({.reference_only = reference});
    const auto executor = cpu.executor(communicator, model.all(), model.named);
    for (std::size_t p = 0; p < model.programs.size(); ++p) {
      const Graph& graph = model.programs[p]->graph;
      for (const auto& input : graph.inputs)
        deal(graph[input.value], inputs[p].at(input.name), mesh, communicator.rank(),
             reinterpret_cast<char*>(executor->host_view(input.name).data()));
      executor->run(p);
      for (const auto& output : graph.outputs) {
        const Value& value = graph[output.value];
        const auto* data = reinterpret_cast<const char*>(executor->host_view(output.name).data());
        results[p].at(output.name)[static_cast<std::size_t>(communicator.rank())].assign(
            data, data + size_of(value.dtype) * static_cast<std::size_t>(local_count(value.shape, value.layout, mesh)));
      }
    }
    return 0;
  });
  for (std::size_t p = 0; p < model.programs.size(); ++p) {
    const Graph& graph = model.programs[p]->graph;
    for (const auto& [name, whole] : expected[p]) {
      INFO("mesh " << mesh.text() << ", ZeRO " << zero_stage << ", program " << graph.name << ", output " << name);
      REQUIRE(graph.output(name) != no_value);
      CHECK(compare(graph[graph.output(name)], whole, mesh, results[p].at(name)) <= 1e-12);
    }
  }
}

TransformerSpec three_kv_heads() {
  TransformerSpec spec = test::llama_like(3);
  spec.layers[0].layer.attention.heads = 12;
  return spec;
}

}  // namespace

TEST_CASE("programs on ranks give what the specification gives", "[threads]") {
  for (const auto& spec : {test::llama_like(), test::gpt2_like(), test::qwen3_like(), three_kv_heads()})
    for (const Mesh& mesh : {test::mesh(2, 1), test::mesh(2, 2), test::mesh(1, 4)})
      for (int zero_stage : {0, 1, 2, 3}) check_ranks(spec, mesh, zero_stage, false);
}

TEST_CASE("programs on a mesh of three axes, and with reference kernels", "[threads]") {
  const Mesh three({{"dp", 2}, {"ring", 2}, {"ulysses", 2}});
  for (int zero_stage : {1, 3}) {
    check_ranks(test::qwen3_like(), three, zero_stage, false);
    check_ranks(test::gpt2_like(), three, zero_stage, true);
  }
}
