// Every change of layout on a 2x2x2 mesh, executed. next_layout_change gives a chain of collectives for each pair of
// layouts; each distinct collective is run once on eight ranks by CommunicationStep, and again together with others
// that move alike, and its result is held against the global tensor by code of the test's own. When every step is right
// and every chain ends at its target, so is every pair.
#include "ir/layout_change.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <map>
#include <set>
#include <utility>

#include "base/error.h"
#include "comm/launch.h"
#include "ir/graph.h"
#include "ir/op_definition.h"
#include "ir/verifier.h"
#include "kernels/cpu/thread_pool.h"
#include "runtime/cpu/communication_run.h"
#include "tests/passes/shards.h"

using namespace longhaul;

namespace {

const Mesh mesh({{"a", 2}, {"b", 2}, {"c", 2}});

// All ordered lists of the axes of `set`.
std::vector<AxisList> orders(AxisSet set) {
  std::vector<AxisList> all;
  const auto extend = [&](const auto& self, const AxisList& list) -> void {
    if (list.set() == set) all.push_back(list);
    for (int axis = 0; axis < 3; ++axis)
      if ((set >> axis & 1) && !list.contains(axis)) self(self, list.then({axis}));
  };
  extend(extend, {});
  return all;
}

// Every axis unused, summed over, or splitting one dimension (up to two axes a dimension, in any order); or flat splits
// over any ordered axes.
std::vector<Layout> all_layouts(int dimensions) {
  std::vector<Layout> all;
  const int choices = dimensions + 2;
  for (int code = 0; code < choices * choices * choices; ++code) {
    std::vector<AxisSet> sets(static_cast<std::size_t>(choices), 0);
    for (int axis = 0, rest = code; axis < 3; ++axis, rest /= choices)
      sets[static_cast<std::size_t>(rest % choices)] |= AxisSet{1} << axis;
    std::vector<Layout> made{Layout::whole(static_cast<std::size_t>(dimensions))};
    made[0].partial = sets[1];
    for (int d = 0; d < dimensions; ++d) {
      std::vector<Layout> more;
      for (const auto& list : orders(sets[static_cast<std::size_t>(d) + 2]))
        for (Layout layout : made) {
          layout.dimensions[static_cast<std::size_t>(d)].axes = list;
          if (list.size() <= 2) more.push_back(layout);
        }
      made = more;
    }
    all.insert(all.end(), made.begin(), made.end());
  }
  for (AxisSet flat = 1; flat < 8; ++flat)
    for (AxisSet partial = 0; partial < 8; ++partial)
      if (!(flat & partial))
        for (const auto& list : orders(flat)) {
          Layout layout = Layout::whole(static_cast<std::size_t>(dimensions));
          layout.flat = list;
          layout.partial = partial;
          all.push_back(layout);
        }
  return all;
}

// The same splits, rotated.
std::vector<Layout> rotated(const std::vector<Layout>& layouts) {
  std::vector<Layout> all;
  for (const auto& layout : layouts)
    for (std::size_t d = 0; d < layout.dimensions.size(); ++d) {
      const int n = mesh.count(layout.dimensions[d].axes);
      if (n == 1) continue;
      all.push_back(layout);
      all.back().dimensions[d].rotation = n - 1;
    }
  return all;
}

// Integers, so that sums are exact in any order.
double global_value(std::int64_t element) {
  return static_cast<double>(element * 37 % 101 - 50);
}

// What a rank holds of the global tensor: on the group of the partial axes the shares add up to it.
std::vector<double> held(const Shape& shape, const Layout& layout, int rank, double padding) {
  const AxisList summed = test::list_of(layout.partial, mesh);
  const int share = mesh.index(summed, rank), shares = mesh.count(summed);
  std::vector<double> values;
  for (std::int64_t e : test::elements_of(shape, layout, mesh, rank)) {
    const auto other = [&](int k) { return static_cast<double>((e * 13 + k * 29) % 17 - 8); };
    double rest = global_value(e);
    for (int k = 1; k < shares; ++k) rest -= other(k);
    values.push_back(e < 0 ? padding : share == 0 ? rest : other(share));
  }
  return values;
}

struct Step {
  Layout from;
  LayoutChange change;
};

// The distinct steps on the way between all pairs, each once.
std::vector<Step> all_steps(const Shape& shape, const std::vector<Layout>& layouts, std::size_t* longest) {
  std::map<std::string, Step> steps;
  for (const auto& from : layouts)
    for (const auto& to : layouts) {
      INFO(from.text(mesh) << " -> " << to.text(mesh));
      if (to.partial & ~from.partial) {
        REQUIRE_THROWS_AS(next_layout_change(from, to, shape, mesh), Error);
        continue;
      }
      Layout at = from;
      std::size_t length = 0;
      while (const auto change = next_layout_change(at, to, shape, mesh)) {
        REQUIRE(++length < 16);
        REQUIRE(!(change->after == at));
        steps.emplace(at.text(mesh) + std::string(change->op) + change->after.text(mesh) + mesh.text(change->axes),
                      Step{at, *change});
        at = change->after;
      }
      REQUIRE(at == to);
      *longest = std::max(*longest, length);
    }
  std::vector<Step> list;
  for (auto& [key, step] : steps) list.push_back(step);
  return list;
}

// One collective of one tensor for each step; the steps move alike.
Graph graph_of(const Shape& shape, const std::vector<Step>& steps) {
  Graph graph;
  graph.mesh = mesh;
  const LayoutChange& change = steps[0].change;
  Op op;
  op.definition = find_op(change.op);
  for (std::size_t i = 0; i < steps.size(); ++i) {
    op.operands.push_back(graph.add_input("x" + std::to_string(i), shape, DType::float64, Role::data));
    op.results.push_back(graph.add_value("", shape, DType::float64));
    graph[op.operands[i]].layout = steps[i].from;
    graph[op.results[i]].layout = steps[i].change.after;
  }
  op.signature = graph.signature(op.definition->signature, op.operands);
  op.attributes = {{"axes", change.axes}};
  if (change.dimension >= 0) op.attributes.set("dimension", std::int64_t{change.dimension});
  if (change.split >= 0) op.attributes.set("split", std::int64_t{change.split});
  if (change.by) op.attributes.set("by", std::int64_t{change.by});
  graph.ops = {op};
  return graph;
}

void execute(const Shape& shape, const std::vector<std::vector<Step>>& messages) {
  std::vector<Graph> graphs;
  for (const auto& steps : messages) graphs.push_back(graph_of(shape, steps));
  for (const double padding : {0.0, std::numeric_limits<double>::quiet_NaN()}) {
    using Tensors = std::vector<std::vector<double>>;
    std::vector<std::vector<Tensors>> results(8, std::vector<Tensors>(messages.size()));
    run_threads(8, [&](Communicator& world) {
      ThreadPool pool(1);
      std::map<AxisList, std::unique_ptr<Communicator>> groups;
      const auto rank = static_cast<std::size_t>(world.rank());
      for (std::size_t i = 0; i < messages.size(); ++i) {
        const CommunicationStep step(graphs[i], graphs[i].ops[0], world.rank());
        auto& group = groups[step.axes];
        if (!step.is_local() && !group) group = world.group(mesh.group(step.axes, world.rank()));
        Tensors operands;
        std::vector<const void*> from;
        std::vector<void*> to;
        results[rank][i].resize(messages[i].size());
        std::int64_t alone = 0;
        for (std::size_t k = 0; k < messages[i].size(); ++k) {
          operands.push_back(held(shape, messages[i][k].from, world.rank(), padding));
          results[rank][i][k].assign(static_cast<std::size_t>(local_count(shape, messages[i][k].change.after, mesh)),
                                     1e99);
          from.push_back(operands.back().data());
          to.push_back(results[rank][i][k].data());
          const Graph one = graph_of(shape, {messages[i][k]});
          alone += CommunicationStep(one, one.ops[0], world.rank()).bytes_sent();
        }
        LONGHAUL_CHECK(step.bytes_sent() == alone, "together {} bytes, one by one {}", step.bytes_sent(), alone);
        std::vector<double> scratch(static_cast<std::size_t>(step.scratch_bytes()) / 8, 1e88);
        const std::int64_t before = group ? group->traffic()[step.collective].bytes_sent : 0;
        run_communication(step, group.get(), from, to, scratch.data(), pool);
        if (group)
          LONGHAUL_CHECK(group->traffic()[step.collective].bytes_sent - before == alone, "{} bytes sent, predicted {}",
                         group->traffic()[step.collective].bytes_sent - before, alone);
      }
      return 0;
    });
    for (std::size_t i = 0; i < messages.size(); ++i)
      for (std::size_t t = 0; t < messages[i].size(); ++t) {
        const Layout& after = messages[i][t].change.after;
        INFO(messages[i][t].from.text(mesh) << " " << messages[i][t].change.op << " " << after.text(mesh) << ", tensor "
                                            << t << " of " << messages[i].size());
        const AxisList summed = test::list_of(after.partial, mesh);
        int wrong = 0;
        for (int rank = 0; rank < 8; ++rank) {
          const auto elements = test::elements_of(shape, after, mesh, rank);
          for (std::size_t k = 0; k < elements.size(); ++k) {
            double sum = 0;
            for (int member : mesh.group(summed, rank)) sum += results[static_cast<std::size_t>(member)][i][t][k];
            // Pointwise ops and sums of squares read padding: zeros stay zeros.
            const double expected = elements[k] < 0 ? 0 : global_value(elements[k]);
            if (elements[k] < 0 && std::isnan(padding)) continue;
            wrong += !(sum == expected);
          }
        }
        REQUIRE(wrong == 0);
      }
  }
}

// Steps that move alike, up to five a message.
std::vector<std::vector<Step>> together(const std::vector<Step>& steps) {
  std::map<std::string, std::vector<Step>> alike;
  std::vector<std::vector<Step>> messages;
  for (const Step& step : steps) {
    const LayoutChange& change = step.change;
    if (change.op == "slice") continue;
    auto& open = alike[fmt::format("{} {} {} {} {}", change.op, mesh.text(change.axes), change.dimension, change.split,
                                   change.by)];
    open.push_back(step);
    if (open.size() == 5) messages.push_back(std::exchange(open, {}));
  }
  for (auto& [key, open] : alike)
    if (open.size() > 1) messages.push_back(open);
  return messages;
}

void check_all_pairs(const Shape& shape, bool rotations) {
  std::vector<Layout> layouts = all_layouts(static_cast<int>(shape.size()));
  if (rotations) {
    const auto more = rotated(layouts);
    layouts.insert(layouts.end(), more.begin(), more.end());
  }
  REQUIRE(layouts.size() > 90);
  std::size_t longest = 0;
  const auto steps = all_steps(shape, layouts, &longest);
  REQUIRE(steps.size() > 100);
  CHECK(longest <= 9);
  // The verifier agrees with each.
  std::vector<std::vector<Step>> messages;
  for (const auto& step : steps) messages.push_back({step});
  const auto several = together(steps);
  REQUIRE(several.size() > 20);
  messages.insert(messages.end(), several.begin(), several.end());
  for (const auto& message : messages) {
    const std::string problem = verify(graph_of(shape, message), Stage::lowered);
    INFO(problem);
    REQUIRE(problem.empty());
  }
  execute(shape, messages);
}

}  // namespace

TEST_CASE("every layout change of a matrix, executed", "[threads]") {
  check_all_pairs({8, 12}, true);  // divides
  check_all_pairs({6, 3}, true);   // partly
  check_all_pairs({5, 3}, false);  // empty chunks
}

TEST_CASE("every layout change of a three-dimensional value, executed", "[threads]") {
  check_all_pairs({4, 8, 4}, false);
  check_all_pairs({3, 6, 5}, false);
}

TEST_CASE("one collective where one is enough") {
  const Mesh one({{"dp", 2}, {"sp", 4}});
  const auto change = [&](const Layout& from, const Layout& to, const Shape& shape) {
    std::string ops;
    Layout at = from;
    while (const auto step = next_layout_change(at, to, shape, one)) {
      ops += (ops.empty() ? "" : " ") + std::string(step->op);
      at = step->after;
    }
    return ops;
  };
  const auto layout = [](std::vector<AxisList> dimensions, AxisList flat = {}, AxisSet partial = 0) {
    Layout made = Layout::whole(dimensions.size());
    for (std::size_t d = 0; d < dimensions.size(); ++d) made.dimensions[d].axes = dimensions[d];
    made.flat = flat;
    made.partial = partial;
    return made;
  };
  const Shape bshd{2, 8, 4, 6};
  CHECK(change(layout({{0}, {1}, {}, {}}), layout({{0}, {}, {1}, {}}), bshd) == "all_to_all");   // Ulysses
  CHECK(change(layout({{}, {}}, {0, 1}), layout({{}, {}}), {5, 7}) == "all_gather");             // ZeRO-3 parameter
  CHECK(change(layout({{}, {}}, {}, 3), layout({{}, {}}, {0, 1}), {5, 7}) == "reduce_scatter");  // ZeRO gradient
  CHECK(change(layout({{}, {}}, {}, 3), layout({{}, {}}), {5, 7}) == "all_reduce");
  CHECK(change(layout({{}, {}}), layout({{}, {}}, {0, 1}), {5, 7}) == "slice");
  CHECK(change(layout({{0}, {}}, {}, 2), layout({{0}, {1}}), {4, 8}) == "reduce_scatter");
  CHECK(change(layout({{0}, {}}, {}, 2), layout({{0}, {1}}), {4, 6}) == "reduce_scatter");  // padded, but from whole
  CHECK(change(layout({{0, 1}, {}}), layout({{0}, {}}), {8, 3}) == "all_gather");
  Layout turned = layout({{1}, {}});
  turned.dimensions[0].rotation = 1;
  CHECK(change(layout({{1}, {}}), turned, {8, 3}) == "shift");
  CHECK(change(turned, turned, {8, 3}).empty());
}
