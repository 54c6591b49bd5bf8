// Signatures, meshes, layouts and the one layout rule.
#include "ir/layout.h"

#include <catch2/catch.hpp>
#include <set>

#include "ir/graph.h"
#include "ir/op_definition.h"

using namespace longhaul;

namespace {

using Letters = std::vector<std::string>;

Signature parse(std::string_view text, std::vector<std::size_t> ranks) {
  return Signature::parse(text, ranks);
}

// A graph on dp=2, ring=3, ulysses=2 with one op whose operands have these shapes and layouts (in text).
struct OneOp {
  Graph graph;
  std::vector<Layout> have;
  OneOp(const std::string& op, const std::vector<std::string>& operands, const std::string& result) {
    std::string text = "graph \"g\" mesh(dp=2, ring=3, ulysses=2)\n";
    std::string list;
    for (std::size_t i = 0; i < operands.size(); ++i) {
      text += "input %" + std::to_string(i) + " : float64" + operands[i] + " data \"x" + std::to_string(i) + "\"\n";
      list += (i ? ", %" : "%") + std::to_string(i);
    }
    const auto n = operands.size();
    text += "%" + std::to_string(n) + " : float64" + result + " = " + op.substr(0, op.find('{')) + "(" + list + ")";
    if (op.find('{') != std::string::npos) text += op.substr(op.find('{'));
    graph = parse_graph(text + "\n");
    for (std::size_t i = 0; i < n; ++i) have.push_back(graph[static_cast<ValueId>(i)].layout);
  }
  Rule rule() const { return layout_rule(graph, graph.ops[0], have); }
  std::string operand(std::size_t i) const { return rule().operands[i].text(graph.mesh); }
  std::string result(std::size_t i = 0) const { return rule().results[i].text(graph.mesh); }
};

}  // namespace

TEST_CASE("signatures") {
  CHECK(parse("bse,hde->bshd", {3, 3}).operands == Letters{"bse", "hde"});
  CHECK(parse("bse,hde->bshd", {3, 3}).results == Letters{"bshd"});
  CHECK(parse("*,*->*", {2, 2}).operands == Letters{"AB", "AB"});
  CHECK(parse("*,*->*", {2, 2}).results == Letters{"AB"});
  CHECK(parse("*->*", {0}).operands == Letters{""});
  CHECK(parse("*->", {3}).results == Letters{""});
  CHECK(parse("*&->*", {2, 2, 2}).operands == Letters{"AB", "AB", "AB"});
  CHECK(parse("*&->*", {1}).operands == Letters{"A"});
  CHECK(parse("*&->*&", {2, 0, 3}).operands == Letters{"AB", "", "ABC"});
  CHECK(parse("*&->*&", {2, 0, 3}).results == Letters{"AB", "", "ABC"});
  CHECK(parse("*&->*&", {2, 0, 3}).paired);
  CHECK_FALSE(parse("*&->*", {2, 2}).paired);
  CHECK_THROWS_AS(parse("b&->b&", {1}), std::logic_error);
  CHECK(parse("...d,d->...d", {3, 1}).operands == Letters{"ABd", "d"});
  CHECK(parse("...d,d->...d", {3, 1}).results == Letters{"ABd"});
  CHECK(parse("...d,d->...d", {1, 1}).results == Letters{"d"});
  CHECK(parse("...d,d,...d->...d,d", {2, 1, 2}).results == Letters{"Ad", "d"});
  CHECK(parse("->", {}).operands.empty());
  CHECK(parse("->", {}).results == Letters{""});
  CHECK(parse(",->", {0, 0}).operands == Letters{"", ""});
  CHECK(parse("->,", {0}).results == Letters{"", ""});
  CHECK(parse("*,*,*,*,,,->*,*,*", {2, 2, 2, 2, 0, 0, 0}).operands[6].empty());
  for (const auto& [text, ranks] :
       std::vector<std::pair<std::string, std::vector<std::size_t>>>{{"bse,hde", {3, 3}},        // no arrow
                                                                     {"bse,hde->bshd", {3, 2}},  // dimensions
                                                                     {"bse,hde->bshd", {3}},     // operands
                                                                     {"*,*->*", {2, 1}},         // ranks differ
                                                                     {"...de->...d", {1}},       // too few dimensions
                                                                     {"bb->b", {2}},             // a diagonal
                                                                     {"b->bb", {1}},  // a repeated result letter
                                                                     {"b1->b", {2}},  // no letter
                                                                     {"b\xff->b", {2}},
                                                                     {"*->*", {9}}}) {
    INFO(text);
    CHECK_THROWS_AS(parse(text, ranks), std::logic_error);
  }
}

TEST_CASE("axis lists") {
  const AxisList list{2, 0, 1};
  CHECK(list.first(2) == AxisList{2, 0});
  CHECK(list.from(1) == AxisList{0, 1});
  CHECK(list.without(1) == AxisList{2, 1});
  CHECK(list.only(5) == AxisList{2, 0});
  CHECK(AxisList{2}.then({0, 1}) == list);
  CHECK(list.set() == 7);
  CHECK(list.contains(0));
  CHECK_FALSE(AxisList{1}.contains(0));
  CHECK_THROWS_AS((AxisList{1, 1}), std::logic_error);
  CHECK_THROWS_AS((AxisList{-1}), std::logic_error);
  CHECK_THROWS_AS((AxisList{0, 1, 2, 3, 4, 5, 6}), std::logic_error);
}

TEST_CASE("mesh groups") {
  const Mesh mesh({{"dp", 2}, {"ring", 3}, {"ulysses", 2}});
  REQUIRE(mesh.world() == 12);
  CHECK(mesh.find("ring") == 1);
  CHECK(mesh.find("tp") == -1);
  CHECK(mesh.coordinate(11, 0) == 1);
  CHECK(mesh.coordinate(9, 1) == 1);
  CHECK(mesh.coordinate(9, 2) == 1);
  CHECK(mesh.group({2}, 7) == std::vector<int>{6, 7});
  CHECK(mesh.group({0}, 7) == std::vector<int>{1, 7});
  CHECK(mesh.group({1, 2}, 8) == std::vector<int>{6, 7, 8, 9, 10, 11});
  CHECK(mesh.group({2, 1}, 8) == std::vector<int>{6, 8, 10, 7, 9, 11});
  CHECK(mesh.group({}, 5) == std::vector<int>{5});
  for (const AxisList& axes : {AxisList{0}, AxisList{1, 0}, AxisList{2, 1}, AxisList{2, 0, 1}}) {
    std::set<int> seen;
    for (int rank = 0; rank < mesh.world(); ++rank) {
      const auto group = mesh.group(axes, rank);
      REQUIRE(static_cast<int>(group.size()) == mesh.count(axes));
      CHECK(group[static_cast<std::size_t>(mesh.index(axes, rank))] == rank);
      for (std::size_t i = 0; i < group.size(); ++i) CHECK(mesh.index(axes, group[i]) == static_cast<int>(i));
      if (group[0] == rank) seen.insert(group.begin(), group.end());
    }
    CHECK(seen.size() == 12);  // the groups cover the world
  }
  const Mesh thin({{"dp", 1}, {"ring", 1}, {"ulysses", 4}});
  CHECK(thin.live() == AxisList{2});
  CHECK(thin.live({1, 2}) == AxisList{2});
  CHECK(thin.text() == "ulysses=4");
  CHECK(thin.text({2, 0}) == "ulysses.dp");
  CHECK_THROWS_AS(Mesh({{"a", 2}, {"a", 2}}), std::logic_error);
  CHECK_THROWS_AS(Mesh({{"a", 0}}), std::logic_error);
}

TEST_CASE("local shapes round up") {
  const Mesh mesh({{"dp", 2}, {"ring", 3}, {"ulysses", 2}});
  Layout layout = Layout::whole(3);
  CHECK(layout.is_whole());
  CHECK(local_shape({5, 7, 2}, layout, mesh) == Shape{5, 7, 2});
  layout.dimensions[1].axes = {1, 0};
  layout.dimensions[2].axes = {2};
  CHECK(local_shape({5, 7, 2}, layout, mesh) == Shape{5, 2, 1});
  CHECK(local_count({5, 7, 2}, layout, mesh) == 10);
  CHECK(layout.split() == 7);
  CHECK(layout.text(mesh) == "[-, ring.dp, ulysses]");
  Layout flat = Layout::whole(2);
  flat.flat = {0, 2};
  flat.partial = 2;
  CHECK_FALSE(flat.is_whole());
  CHECK(local_shape({5, 7}, flat, mesh) == Shape{9});
  CHECK(local_count({5, 7}, flat, mesh) == 9);
  CHECK(flat.text(mesh) == "[-, -]flat(dp.ulysses)sum(ring)");
  CHECK(local_count({}, Layout::whole(0), mesh) == 1);
}

TEST_CASE("layout rule, point 1: a letter takes the first split") {
  // x[b s e] split, w whole
  OneOp projection("einsum \"bse,fe->bsf\"", {"[4, 6, 8] @[dp, ring, -]", "[12, 8] @[-, -]"}, "[4, 6, 12] @[-, -, -]");
  CHECK(projection.operand(0) == "[dp, ring, -]");
  CHECK(projection.operand(1) == "[-, -]");
  CHECK(projection.result() == "[dp, ring, -]");
  // the first operand that splits a letter decides; the second must follow
  OneOp conflict("add", {"[4, 6] @[dp, -]", "[4, 6] @[ulysses, ring]"}, "[4, 6] @[-, -]");
  CHECK(conflict.operand(0) == "[dp, ring]");
  CHECK(conflict.operand(1) == "[dp, ring]");
  // whole letters are never split
  OneOp norm("rms_norm{epsilon=0.1}", {"[4, 6] @[dp, ulysses]", "[6] @[-]"}, "[4, 6] @[-, -]");
  CHECK(norm.operand(0) == "[dp, -]");
  CHECK(norm.result() == "[dp, -]");
  // a size that does not divide is not split, unless the op is pointwise
  OneOp odd("einsum \"be,fe->bf\"", {"[5, 6] @[dp, -]", "[4, 6] @[-, -]"}, "[5, 4] @[-, -]");
  CHECK(odd.operand(0) == "[-, -]");
  OneOp padded("scale", {"[5, 6] @[dp, -]"}, "[5, 6] @[-, -]");
  CHECK(padded.operand(0) == "[dp, -]");
  // one axis cannot split two letters
  OneOp twice("einsum \"be,fe->bf\"", {"[4, 6] @[dp, -]", "[4, 6] @[dp, -]"}, "[4, 4] @[-, -]");
  CHECK(twice.operand(0) == "[dp, -]");
  CHECK(twice.operand(1) == "[-, -]");
  CHECK(twice.result() == "[dp, -]");
  // flat shards mean nothing to an op that is not pointwise
  OneOp flat("einsum \"be,fe->bf\"", {"[4, 6] @[dp, -]", "[4, 6] @[-, -]flat(dp.ring.ulysses)"}, "[4, 4] @[-, -]");
  CHECK(flat.operand(1) == "[-, -]");
}

TEST_CASE("layout rule, points 2 and 3: a contraction over a split dimension is a partial sum") {
  OneOp gradient("einsum \"bse,bsf->ef\"", {"[4, 6, 8] @[dp, ring, -]", "[4, 6, 2] @[-, -, -]"}, "[8, 2] @[-, -]");
  CHECK(gradient.operand(1) == "[dp, ring, -]");
  CHECK(gradient.result() == "[-, -]sum(dp.ring)");
  // minus the axes that split the result
  OneOp mixed("einsum \"bse,bsf->ef\"", {"[4, 6, 8] @[dp, -, ulysses]", "[4, 6, 2] @[-, -, -]"}, "[8, 2] @[-, -]");
  CHECK(mixed.result() == "[ulysses, -]sum(dp)");
  OneOp scalar("sum_squares", {"[4, 6] @[dp, ulysses]"}, "[] @[]");
  CHECK(scalar.result() == "[]sum(dp.ulysses)");
  // ring: queries split over the axis that splits the keys; the axis splits a contracted and a result letter
  OneOp ring("attention{split={s: ring, t: ring+2}}",
             {"[2, 6, 4, 2] @[-, ring, -, -]", "[2, 6, 2, 2] @[-, ring+2, -, -]", "[2, 6, 2, 2] @[-, ring+2, -, -]",
              "[2, 6] @[-, ring]", "[2, 6] @[-, ring+2]", "[2, 6] @[-, ring]"},
             "[2, 6, 4, 2] @[-, -, -, -], %7 : float64[2, 4, 6] @[-, -, -]");
  CHECK(ring.operand(0) == "[-, ring, -, -]");
  CHECK(ring.operand(1) == "[-, ring+2, -, -]");
  CHECK(ring.operand(4) == "[-, ring+2]");
  CHECK(ring.result(0) == "[-, ring, -, -]");  // no sum over ring
  CHECK(ring.result(1) == "[-, -, ring]");
  // keys split while queries are not: that would be a sum
  OneOp keys("attention{split={t: ring}}",
             {"[2, 6, 4, 2] @[-, -, -, -]", "[2, 6, 2, 2] @[-, ring, -, -]", "[2, 6, 2, 2] @[-, ring, -, -]",
              "[2, 6] @[-, -]", "[2, 6] @[-, ring]", "[2, 6] @[-, -]"},
             "[2, 6, 4, 2] @[-, -, -, -], %7 : float64[2, 4, 6] @[-, -, -]");
  CHECK(keys.result(0) == "[-, -, -, -]sum(ring)");
}

TEST_CASE("layout rule: Ulysses splits heads while attention runs") {
  OneOp attention(
      "attention{split={g: ulysses, h: ulysses}}",
      {"[2, 6, 4, 2] @[dp, ulysses, -, -]", "[2, 6, 2, 2] @[dp, ulysses, -, -]", "[2, 6, 2, 2] @[dp, ulysses, -, -]",
       "[2, 6] @[dp, ulysses]", "[2, 6] @[dp, ulysses]", "[2, 6] @[dp, ulysses]"},
      "[2, 6, 4, 2] @[-, -, -, -], %7 : float64[2, 4, 6] @[-, -, -]");
  CHECK(attention.operand(0) == "[dp, -, ulysses, -]");
  CHECK(attention.operand(1) == "[dp, -, ulysses, -]");
  CHECK(attention.operand(3) == "[dp, -]");
  CHECK(attention.result(0) == "[dp, -, ulysses, -]");
  CHECK(attention.result(1) == "[dp, ulysses, -]");
}

TEST_CASE("layout rule: a mark goes before what operands have") {
  // Unmarked, the first operand's sequence wins the axis, and the weight must be whole.
  const std::vector<std::string> operands = {"[4, 6, 8] @[dp, ulysses, -]", "[4, 2, 8] @[ulysses, -, -]"};
  const std::string heads = "[4, 6, 4, 2] @[-, -, -, -]";
  OneOp unmarked("einsum \"bse,hde->bshd\"", operands, heads);
  CHECK(unmarked.operand(0) == "[dp, ulysses, -]");
  CHECK(unmarked.operand(1) == "[-, -, -]");
  CHECK(unmarked.result() == "[dp, ulysses, -, -]");
  OneOp marked("einsum \"bse,hde->bshd\"{split={h: ulysses}}", operands, heads);
  CHECK(marked.operand(0) == "[dp, -, -]");
  CHECK(marked.operand(1) == "[ulysses, -, -]");
  CHECK(marked.result() == "[dp, -, ulysses, -]");
  // Letters that the mark keeps whole, splits in part, or rotates.
  OneOp kept("einsum \"bse,hde->bshd\"{split={b: -, s: ring+1}}", operands, heads);
  CHECK(kept.operand(0) == "[-, ring+1, -]");
  CHECK(kept.operand(1) == "[ulysses, -, -]");
  CHECK(kept.result() == "[-, ring+1, ulysses, -]");
  // A contraction is a partial sum whoever split it.
  OneOp down("einsum \"bshd,ehd->bse\"{split={h: ulysses}}",
             {"[4, 6, 4, 2] @[dp, -, ulysses, -]", "[8, 4, 2] @[-, -, -]"}, "[4, 6, 8] @[-, -, -]");
  CHECK(down.operand(1) == "[-, ulysses, -]");
  CHECK(down.result() == "[dp, -, -]sum(ulysses)");
  // A pointwise op takes no flat shards then.
  OneOp scale("scale{split={A: dp}}", {"[4, 6] @[-, -]flat(dp.ulysses)"}, "[4, 6] @[-, -]");
  CHECK(scale.operand(0) == "[dp, -]");
  // Letters that only a mark splits.
  OneOp attention("attention",
                  {"[2, 6, 4, 2] @[dp, ulysses, -, -]", "[2, 6, 2, 2] @[dp, ring, -, -]",
                   "[2, 6, 2, 2] @[dp, ring, -, -]", "[2, 6] @[dp, -]", "[2, 6] @[dp, -]", "[2, 6] @[dp, -]"},
                  "[2, 6, 4, 2] @[-, -, -, -], %7 : float64[2, 4, 6] @[-, -, -]");
  CHECK(attention.operand(0) == "[dp, -, -, -]");
  CHECK(attention.operand(1) == "[dp, -, -, -]");
}

TEST_CASE("layout rule: an addend keeps contracted letters whole") {
  OneOp added("einsum_add \"be,fe,bf->bf\"", {"[4, 6] @[dp, ring]", "[4, 6] @[-, ring]", "[4, 4] @[dp, -]"},
              "[4, 4] @[-, -]");
  CHECK(added.operand(0) == "[dp, -]");
  CHECK(added.operand(1) == "[-, -]");
  CHECK(added.result() == "[dp, -]");
  // a partial addend must be reduced first
  OneOp partial("einsum_add \"be,fe,bf->bf\"", {"[4, 6] @[dp, -]", "[4, 6] @[-, -]", "[4, 4] @[dp, -]sum(ring)"},
                "[4, 4] @[-, -]");
  CHECK(partial.operand(2) == "[dp, -]");
}

TEST_CASE("layout rule, point 4: flat shards and partial sums") {
  OneOp flat("add", {"[5, 7] @[-, -]flat(dp.ring)", "[5, 7] @[-, -]"}, "[5, 7] @[-, -]");
  CHECK(flat.operand(1) == "[-, -]flat(dp.ring)");
  CHECK(flat.result() == "[-, -]flat(dp.ring)");
  OneOp norm("sum_squares", {"[5, 7] @[-, -]flat(dp.ring)"}, "[] @[]");
  CHECK(norm.result() == "[]sum(dp.ring)");
  // linear: only when all operands carry the sum
  OneOp both("add", {"[4, 6] @[dp, -]sum(ring)", "[4, 6] @[dp, -]sum(ring)"}, "[4, 6] @[-, -]");
  CHECK(both.operand(0) == "[dp, -]sum(ring)");
  CHECK(both.result() == "[dp, -]sum(ring)");
  OneOp one("add", {"[4, 6] @[dp, -]sum(ring)", "[4, 6] @[dp, -]"}, "[4, 6] @[-, -]");
  CHECK(one.operand(0) == "[dp, -]");
  CHECK(one.result() == "[dp, -]");
  OneOp different("add", {"[4, 6] @[dp, -]sum(ring)", "[4, 6] @[dp, -]sum(ulysses)"}, "[4, 6] @[-, -]");
  CHECK(different.operand(0) == "[dp, -]");
  OneOp nested("add", {"[4, 6] @[dp, -]sum(ring)", "[4, 6] @[dp, -]sum(ring.ulysses)"}, "[4, 6] @[-, -]");
  CHECK(nested.operand(0) == "[dp, -]");
  CHECK(nested.operand(1) == "[dp, -]");
  // not linear: never
  OneOp nonlinear("activation{kind=\"silu\"}", {"[4, 6] @[dp, -]sum(ring)"}, "[4, 6] @[-, -]");
  CHECK(nonlinear.operand(0) == "[dp, -]");
  OneOp product("einsum \"be,fe->bf\"", {"[4, 6] @[dp, -]sum(ring)", "[4, 6] @[-, -]"}, "[4, 4] @[-, -]");
  CHECK(product.operand(0) == "[dp, -]");
  // a partial sum whose dimensions the same axis would split: the sum stays, the split goes
  OneOp clash("add", {"[4, 6] @[dp, -]sum(ring)", "[4, 6] @[dp, -]sum(ring)", "[4, 6] @[-, -]sum(ring)"},
              "[4, 6] @[-, -]");
  CHECK(clash.operand(2) == "[dp, -]sum(ring)");
  // flat and partial at once
  OneOp summed("cast", {"[5, 7] @[-, -]flat(dp)sum(ring)"}, "[5, 7] @[-, -]");
  CHECK(summed.result() == "[-, -]flat(dp)sum(ring)");
  // a linear reduction of a partial sum gathers both sums
  OneOp bias("sum_leading \"bsd->d\"", {"[4, 6, 2] @[dp, -, -]sum(ring)"}, "[2] @[-]");
  CHECK(bias.result() == "[-]sum(dp.ring)");
}

TEST_CASE("no communication op has a layout rule") {
  OneOp reshard("reshard", {"[4, 6] @[dp, -]"}, "[4, 6] @[-, -]");
  CHECK_THROWS_AS(reshard.rule(), std::logic_error);
}
