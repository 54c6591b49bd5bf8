// The mark `split` on ops that are not attention: what partition makes of it, as tensor parallelism uses it.
#include <catch2/catch.hpp>

#include "ir/verifier.h"
#include "passes/pass.h"

using namespace longhaul;

namespace {

// A projection to heads and the one back, between which a sequence that is split over tp is whole and heads are split.
std::string partitioned(const std::string& up, const std::string& down) {
  Graph graph = parse_graph(
      "graph \"g\" mesh(dp=2, tp=2)\n"
      "input %0 : float32[4, 6, 8] @[-, -, -] parameter \"x\" pinned=@[dp, tp, -]\n"
      "input %1 : float32[4, 2, 8] @[-, -, -] parameter \"up\" pinned=@[-, -, -]\n"
      "input %2 : float32[8, 4, 2] @[-, -, -] parameter \"down\" pinned=@[-, -, -]\n"
      "%3 : float32[4, 6, 4, 2] @[-, -, -, -] = einsum \"bse,hde->bshd\"(%0, %1)" +
      up +
      " forward\n"
      "%4 : float32[4, 6, 4, 2] @[-, -, -, -] = scale(%3) {factor=2.0} forward\n"
      "%5 : float32[4, 6, 8] @[-, -, -] = einsum \"bshd,ehd->bse\"(%4, %2)" +
      down +
      " forward\n"
      "%6 : float32[4, 6, 8] @[-, -, -] = add(%0, %5) forward\n"
      "output \"y\" %6\n");
  const CompileOptions options;
  passes::partition(graph, {options, ProgramKind::evaluate});
  CHECK(verify(graph, Stage::placed) == "");
  const std::string text = print(graph);
  const std::size_t from = text.find("\n%") + 1;  // the first op
  return text.substr(from, text.find("output ") - from);
}

}  // namespace

TEST_CASE("a mark splits a projection's heads where its input's sequence held the axis") {
  // x is gathered along the sequence, each rank takes its heads of the weights, and the partial sums of the projection
  // back are scattered to where x lives: nobody said so but the two marks and the layout rule.
  CHECK(partitioned(" {split={h: tp}}", "") ==
        R"(%7 : float32[4, 6, 8] @[dp, -, -] "x" = reshard(%0) forward by=partition
%8 : float32[4, 2, 8] @[tp, -, -] "up" = reshard(%1) forward by=partition
%3 : float32[4, 6, 4, 2] @[dp, -, tp, -] = einsum "bse,hde->bshd"(%7, %8) {split={h: tp}} forward
%4 : float32[4, 6, 4, 2] @[dp, -, tp, -] = scale(%3) {factor=2.0} forward
%9 : float32[8, 4, 2] @[-, tp, -] "down" = reshard(%2) forward by=partition
%5 : float32[4, 6, 8] @[dp, -, -]sum(tp) = einsum "bshd,ehd->bse"(%4, %9) forward
%10 : float32[4, 6, 8] @[dp, tp, -] = reshard(%5) forward by=partition
%6 : float32[4, 6, 8] @[dp, tp, -] = add(%0, %10) forward
)");
}

TEST_CASE("without a mark the first operand's split wins, and nothing moves") {
  CHECK(partitioned("", "") ==
        R"(%3 : float32[4, 6, 4, 2] @[dp, tp, -, -] = einsum "bse,hde->bshd"(%0, %1) forward
%4 : float32[4, 6, 4, 2] @[dp, tp, -, -] = scale(%3) {factor=2.0} forward
%5 : float32[4, 6, 8] @[dp, tp, -] = einsum "bshd,ehd->bse"(%4, %2) forward
%6 : float32[4, 6, 8] @[dp, tp, -] = add(%0, %5) forward
)");
}

TEST_CASE("a mark on the second projection alone exchanges what it reads") {
  const std::string text = partitioned("", " {split={h: tp, s: -}}");
  INFO(text);
  CHECK(text.find("%3 : float32[4, 6, 4, 2] @[dp, tp, -, -] = einsum") != std::string::npos);
  CHECK(text.find("@[dp, -, tp, -] = reshard(%4)") != std::string::npos);
  CHECK(text.find("%5 : float32[4, 6, 8] @[dp, -, -]sum(tp) = einsum") != std::string::npos);
}
