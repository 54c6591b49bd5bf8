// The kernel table serves any back end, and a cache chooses each problem's kernel once.
#include "runtime/kernel.h"

#include <catch2/catch.hpp>

#include "ir/op_definition.h"
#include "kernels/cpu/matmul_libraries.h"
#include "runtime/cpu/kernel.h"

namespace longhaul {
namespace {

// A back end that counts what it makes and writes down what it runs.
struct Notebook {
  static constexpr const char* name = "notebook";
  int made = 0;
  std::vector<std::string> ran;
};

bool make_for_rows(const KernelProblem<Notebook>& problem, Kernel<Notebook>& kernel, std::string& refusal) {
  if (problem.operands[0].shape.size() != 2) {
    refusal = "no matrix";
    return false;
  }
  ++problem.context.made;
  kernel.run = [](const KernelCall<Notebook>& call) { call.context.ran.push_back("rows"); };
  return true;
}

bool make_plain(const KernelProblem<Notebook>& problem, Kernel<Notebook>& kernel, std::string&) {
  ++problem.context.made;
  kernel.scratch_bytes = 64;
  kernel.run = [](const KernelCall<Notebook>& call) { call.context.ran.push_back("plain"); };
  return true;
}

bool make_nothing(const KernelProblem<Notebook>&, Kernel<Notebook>&, std::string& refusal) {
  refusal = "not today";
  return false;
}

const KernelRegistration<Notebook> scale("scale", {{"rows", make_for_rows}, {"plain", make_plain}});
const KernelRegistration<Notebook> cast("cast", {{"nothing", make_nothing}});

// One input x of `shape` and, for each number, a scale of it.
Graph scales(const Shape& shape, const std::vector<double>& factors) {
  Graph graph;
  graph.name = "test";
  const ValueId x = graph.add_input("x", shape, DType::float32, Role::data);
  for (double factor : factors) {
    Op op;
    op.definition = find_op("scale");
    op.operands = {x};
    op.signature = graph.signature(op.definition->signature, op.operands);
    op.results = {graph.add_value("", shape, DType::float32)};
    op.attributes.set("factor", factor);
    graph.ops.push_back(op);
  }
  return graph;
}

TEST_CASE("any back end has a table of its own: the first candidate that accepts, refusals with their reasons") {
  Notebook notebook;
  const Graph matrix = scales({2, 3}, {1.5}), cube = scales({2, 3, 4}, {1.5});
  const auto& table = KernelTable<Notebook>::instance();
  const auto choose = [&](const Graph& graph, bool reference_only) {
    return table.choose(KernelProblem<Notebook>(graph, graph.ops[0], false, notebook), reference_only);
  };
  CHECK(choose(matrix, false).name == "rows");
  CHECK(choose(matrix, true).name == "plain");
  CHECK(choose(cube, false).name == "plain");
  choose(matrix, false).run({nullptr, nullptr, nullptr, notebook});
  CHECK(notebook.ran == std::vector<std::string>{"rows"});

  Graph other = matrix;
  other.ops[0].definition = find_op("cast");
  CHECK_THROWS_WITH(choose(other, false), "no kernel takes cast(float32[2,3]); nothing refused: not today");
  other.ops[0].definition = find_op("add");  // which the CPU has
  CHECK_THROWS_AS(choose(other, false), std::logic_error);
  CHECK_NOTHROW(KernelTable<CpuContext>::instance().candidates("add"));
}

TEST_CASE("a cache chooses once for equal problems, and anew for whatever may make another kernel") {
  Notebook notebook;
  KernelCache<Notebook> cache(notebook, false);
  const Graph graph = scales({2, 3}, {1.5, 1.5, 1.5000000000000002});
  const auto first = cache.get(graph, graph.ops[0]);
  CHECK(cache.get(graph, graph.ops[1]) == first);  // an equal layer
  CHECK(notebook.made == 1);
  CHECK(cache.get(graph, graph.ops[2]) != first);  // a number that differs in its last bit
  {
    const Graph again = scales({2, 3}, {1.5});  // and of a graph that is gone afterwards
    CHECK(cache.get(again, again.ops[0]) == first);
  }
  CHECK(cache.get(graph, graph.ops[0], true) != first);  // of whole tensors
  const Graph longer = scales({3, 2}, {1.5});
  CHECK(cache.get(longer, longer.ops[0]) != first);
  Graph split = graph;
  split.mesh = Mesh({{"dp", 2}});
  for (auto& value : split.values) value.layout.dimensions = {{{0}, 0}, {{}, 0}};
  CHECK(cache.get(split, split.ops[0]) != first);  // a rank's part is smaller
  const auto differs = [&](const char* name, const Attribute& attribute) {
    Graph changed = graph;
    changed.ops[0].attributes.set(name, attribute);
    return cache.get(changed, changed.ops[0]) != first;
  };
  CHECK(differs("text", std::string("a")));
  CHECK(differs("integer", std::int64_t{3}));
  CHECK(differs("numbers", std::vector<double>{1, 2}));
  CHECK(differs("axes", AxisList{0}));
  CHECK(cache.chosen() == notebook.made);

  KernelCache<Notebook> plain(notebook, true);
  CHECK(plain.get(graph, graph.ops[0])->scratch_bytes == 64);
}

TEST_CASE("of the CPU's kernels only matrix products are chosen again when their libraries are settled") {
  CpuContext context(1);
  KernelCache<CpuContext> cache(context, false);
  Graph graph = scales({2, 3}, {2});
  const ValueId x = graph.input("x"), w = graph.add_input("w", {4, 3}, DType::float32, Role::data);
  Op product;
  product.definition = find_op("einsum");
  product.operands = {x, w};
  product.signature = graph.signature("se,de->sd", product.operands);
  product.results = {graph.add_value("", {2, 4}, DType::float32)};
  graph.ops.push_back(product);
  const auto scaled = cache.get(graph, graph.ops[0]), before = cache.get(graph, graph.ops[1]);
  context.set_libraries(std::make_shared<cpu::MatmulLibraries>(cpu::MatmulLibraries::Choice::first, "reference"));
  cache.settle();
  CHECK(cache.get(graph, graph.ops[0]) == scaled);
  const auto after = cache.get(graph, graph.ops[1]);
  CHECK(after != before);
  CHECK(after->name == "reference");
  cache.settle();
  CHECK(cache.get(graph, graph.ops[1]) == after);  // it stays
}

}  // namespace
}  // namespace longhaul
