// Broken graphs: each is refused with a message that names the op and what is wrong.
#include "ir/verifier.h"

#include <catch2/catch.hpp>

#include "ir/graph.h"
#include "ir/op_definition.h"

using namespace longhaul;
using Catch::Matchers::EndsWith;
using Catch::Matchers::StartsWith;

namespace {

const std::string header =
    "graph \"g\" mesh(dp=2, sp=2)\n"
    "input %0 : float64[4, 6, 8] @[dp, sp, -] data \"x\"\n"
    "input %1 : float64[12, 8] @[-, -] parameter \"w\"\n"
    "input %2 : float64[8] @[-] parameter \"norm\"\n"
    "input %3 : float64[12, 8] @[-, -]flat(dp.sp) parameter \"shard\"\n"
    "input %4 : float64[12, 8] @[-, -]sum(dp.sp) accumulator \"sum\"\n"
    "input %5 : float64[4, 6, 12] @[dp, sp, -] data \"y\"\n"
    "input %6 : float32[12, 8] @[-, -]sum(dp.sp) accumulator \"narrow\"\n";

const std::string groups =
    "input %8 : float64[12, 8] @[-, -]flat(sp) parameter \"of a group\"\n"
    "input %9 : float64[12, 8] @[-, -]flat(sp)sum(dp) accumulator \"of groups\"\n"
    "input %7 : float64[] @[] scalar \"unused\"\n";

std::string problem(const std::string& lines, Stage stage = Stage::lowered) {
  return verify(parse_graph(header + lines), stage);
}

void refused(const std::string& lines, const std::string& op, const std::string& reason, Stage stage = Stage::lowered) {
  const std::string said = problem(lines, stage);
  INFO(lines << "\n" << said);
  CHECK(said.find(op) != std::string::npos);
  CHECK(said.find(reason) != std::string::npos);
}

}  // namespace

TEST_CASE("a legal graph has no problem") {
  CHECK(problem("%7 : float64[4, 6, 12] @[dp, sp, -] = einsum \"bse,fe->bsf\"(%0, %1) forward\n"
                "%8 : float64[12, 8] @[-, -]sum(dp.sp) = einsum \"bsf,bse->fe\"(%5, %0) backward\n"
                "%9 : float64[12, 8] @[-, -]sum(dp.sp) = add(%4, %8) backward\n"
                "%10 : float64[12, 8] @[-, -]flat(dp.sp) = reduce_scatter(%9) {axes=<dp.sp>} backward\n"
                "%11 : float64[12, 8] @[-, -] = all_gather(%10) {axes=<dp.sp>} backward\n"
                "%12 : float64[4, 6, 8] @[dp, -, sp] = all_to_all(%0) {axes=<sp>, dimension=1, split=2} forward\n"
                "output \"w\" %11\n") == "");
}

TEST_CASE("a missing reshard") {
  refused("%7 : float64[4, 6, 12] @[dp, sp, -] = einsum \"bse,fe->bsf\"(%0, %3) forward\n", "op #0 %7",
          "operand 1 is [-, -]flat(dp.sp), the rule needs [-, -]");
}

TEST_CASE("a partial sum consumed as if whole") {
  refused("%7 : float64[12, 8] @[-, -] = rms_norm(%4, %2) {epsilon=0.1} forward\n", "rms_norm",
          "operand 0 is [-, -]sum(dp.sp), the rule needs [-, -]");
  refused("%7 : float64[4, 6, 12] @[dp, sp, -] = einsum \"bse,fe->bsf\"(%0, %4) forward\n", "einsum", "operand 1");
  refused("%7 : float64[12, 8] @[-, -] = add(%4, %1) forward\n", "add", "operand 0");
}

TEST_CASE("a partial result that claims to be whole") {
  refused("%7 : float64[12, 8] @[-, -] = einsum \"bsf,bse->fe\"(%5, %0) backward\n", "einsum",
          "result 0 is [-, -], the rule gives [-, -]sum(dp.sp)");
}

TEST_CASE("the wrong axis") {
  refused("%7 : float64[4, 6, 12] @[sp, dp, -] = einsum \"bse,fe->bsf\"(%0, %1) forward\n", "einsum",
          "result 0 is [sp, dp, -], the rule gives [dp, sp, -]");
}

TEST_CASE("a nonlinear op on a partial sum") {
  refused("%7 : float64[12, 8] @[-, -]sum(dp.sp) = activation(%4) {kind=\"silu\"} forward\n", "activation",
          "operand 0");
  refused("%7 : float64[] @[] = sum_squares(%4) update\n", "sum_squares", "operand 0");
}

TEST_CASE("rounding a partial sum") {
  refused("%7 : bfloat16[12, 8] @[-, -]sum(dp.sp) = cast(%4) backward\n", "cast", "rounds a partial sum");
  refused("%7 : bfloat16[12, 8] @[-, -]sum(dp.sp) = cast(%6) {for_reduction=0} backward\n", "cast",
          "rounds a partial sum");
  CHECK(problem("%7 : bfloat16[12, 8] @[-, -]sum(dp.sp) = cast(%4) {for_reduction=1} backward\n") == "");
  CHECK(problem("%7 : float64[12, 8] @[-, -]sum(dp.sp) = cast(%6) backward\n") == "");  // widens
}

TEST_CASE("rounding a partial sum on the way through another op") {
  SECTION("a sum of two") {
    refused("%7 : bfloat16[12, 8] @[-, -]sum(dp.sp) = add(%6, %6) backward\n", "add", "rounds a partial sum");
  }
  SECTION("a multiple") {
    refused("%7 : float32[12, 8] @[-, -]sum(dp.sp) = scale(%4) {factor=2.0} backward\n", "scale",
            "rounds a partial sum");
  }
  SECTION("a shard that other groups add to") {
    refused(groups + "%10 : bfloat16[12, 8] @[-, -]flat(sp)sum(dp) = cast(%9) backward\n", "cast",
            "rounds a partial sum");
  }
  SECTION("whole, it may be rounded") {
    CHECK(problem("%7 : bfloat16[12, 8] @[-, -] = cast(%1) backward\n") == "");
  }
}

// State in groups that hold copies: flat inside a group, a partial sum over the groups until they are reduced.
TEST_CASE("shard groups") {
  SECTION("legal") {
    CHECK(problem(groups + "%10 : float64[12, 8] @[-, -]flat(sp)sum(dp) = reduce_scatter(%4) {axes=<sp>} backward\n"
                           "%11 : float64[12, 8] @[-, -]flat(sp)sum(dp) = add(%9, %10) backward\n"
                           "%12 : float64[12, 8] @[-, -]flat(sp) = all_reduce(%11) {axes=<dp>} backward\n"
                           "%13 : float64[12, 8] @[-, -] = all_gather(%8) {axes=<sp>} forward\n") == "");
  }
  SECTION("a group's sum taken for everybody's") {
    refused(groups + "%10 : float64[12, 8] @[-, -]flat(sp) = reduce_scatter(%4) {axes=<sp>} backward\n",
            "reduce_scatter", "does not lead from [-, -]sum(dp.sp) to [-, -]flat(sp)");
  }
  SECTION("what is reduced across groups added to what is not") {
    refused(groups + "%10 : float64[12, 8] @[-, -]flat(sp)sum(dp) = add(%9, %8) backward\n", "add",
            "operand 0 is [-, -]flat(sp)sum(dp), the rule needs [-, -]flat(sp)");
  }
  SECTION("reduced over the group instead of across groups") {
    refused(groups + "%10 : float64[12, 8] @[-, -]flat(sp) = all_reduce(%9) {axes=<sp>} backward\n", "all_reduce",
            "does not lead from");
  }
  SECTION("a norm that counts a group's sum") {
    refused(groups + "%10 : float64[] @[]sum(sp) = sum_squares(%9) update\n", "sum_squares",
            "operand 0 is [-, -]flat(sp)sum(dp), the rule needs [-, -]flat(sp)");
  }
  SECTION("a norm that counts copies") {
    refused(groups + "%10 : float64[] @[]sum(dp.sp) = sum_squares(%8) update\n", "sum_squares",
            "result 0 is []sum(dp.sp), the rule gives []sum(sp)");
  }
  SECTION("gathered over all ranks instead of the group") {
    refused(groups + "%10 : float64[12, 8] @[-, -] = all_gather(%8) {axes=<dp.sp>} forward\n", "all_gather",
            "does not lead from");
  }
}

TEST_CASE("the wrong order") {
  // Lines in the right order are put in the other one: no text says what is not defined yet.
  const auto swapped = [](const std::string& lines) {
    Graph graph = parse_graph(header + lines);
    std::swap(graph.ops[0], graph.ops[1]);
    return verify(graph, Stage::lowered);
  };
  SECTION("of ops") {
    CHECK_THAT(swapped("%7 : float64[4, 6, 8] @[dp, sp, -] = scale(%0) {factor=3.0} forward\n"
                       "%8 : float64[4, 6, 8] @[dp, sp, -] = scale(%7) {factor=2.0} forward\n"),
               StartsWith("op #0 %8") && EndsWith("operand %7 is used before it is defined"));
  }
  SECTION("of a collective and what reads its result") {
    CHECK_THAT(swapped("%7 : float64[12, 8] @[-, -] = all_gather(%3) {axes=<dp.sp>} forward\n"
                       "%8 : float64[12, 8] @[-, -] = scale(%7) {factor=2.0} forward\n"),
               StartsWith("op #0 %8") && EndsWith("operand %7 is used before it is defined"));
  }
  SECTION("of summing and gathering") {
    CHECK_THAT(swapped("%7 : float64[12, 8] @[-, -]flat(dp.sp) = reduce_scatter(%4) {axes=<dp.sp>} backward\n"
                       "%8 : float64[12, 8] @[-, -] = all_gather(%7) {axes=<dp.sp>} backward\n"),
               StartsWith("op #0 %8") && EndsWith("operand %7 is used before it is defined"));
  }
  SECTION("of the axes of a split") {
    refused(
        "input %7 : float64[8, 6] @[dp.sp, -] data \"u\"\n"
        "input %8 : float64[8, 6] @[sp.dp, -] data \"v\"\n"
        "%9 : float64[8, 6] @[dp.sp, -] = add(%7, %8) forward\n",
        "add", "operand 1 is [sp.dp, -], the rule needs [dp.sp, -]");
  }
  SECTION("of the axes of shards") {
    refused(
        "input %7 : float64[12, 8] @[-, -]flat(sp.dp) parameter \"u\"\n"
        "%8 : float64[12, 8] @[-, -]flat(dp.sp) = add(%3, %7) update\n",
        "add", "operand 1 is [-, -]flat(sp.dp), the rule needs [-, -]flat(dp.sp)");
  }
  SECTION("of chunks that were passed round") {
    refused(
        "%7 : float64[4, 6, 8] @[dp, sp+1, -] = shift(%0) {axes=<sp>, by=1, dimension=1} forward\n"
        "%8 : float64[4, 6, 8] @[dp, sp, -] = add(%0, %7) forward\n",
        "add", "operand 1 is [dp, sp+1, -], the rule needs [dp, sp, -]");
  }
}

TEST_CASE("an addend on a split contraction") {
  refused("%7 : float64[12, 8] @[-, -]sum(dp.sp) = einsum_add \"bsf,bse,fe->fe\"(%5, %0, %1) backward\n", "einsum_add",
          "operand 0 is [dp, sp, -], the rule needs [-, -, -]");
}

TEST_CASE("a collective that does not lead where it says") {
  const std::string reason = "does not lead from";
  // another axis, dimension, kind, amount
  refused("%7 : float64[4, 6, 8] @[dp, -, -] = all_gather(%0) {axes=<dp>, dimension=1} forward\n", "all_gather",
          reason);
  refused("%7 : float64[4, 6, 8] @[dp, -, -] = all_gather(%0) {axes=<sp>, dimension=0} forward\n", "all_gather",
          reason);
  refused("%7 : float64[4, 6, 8] @[dp, -, sp] = all_to_all(%0) {axes=<sp>, dimension=1, split=0} forward\n",
          "all_to_all", reason);
  refused("%7 : float64[12, 8] @[-, -] = all_gather(%4) {axes=<dp.sp>} backward\n", "all_gather", reason);
  refused("%7 : float64[12, 8] @[-, -] = all_reduce(%4) {axes=<dp>} backward\n", "all_reduce", reason);
  refused("%7 : float64[12, 8] @[-, -]flat(sp.dp) = reduce_scatter(%4) {axes=<dp.sp>} backward\n", "reduce_scatter",
          reason);
  refused("%7 : float64[4, 6, 8] @[dp, sp+1, -] = shift(%0) {axes=<sp>, by=0, dimension=1} forward\n", "shift", reason);
  refused("%7 : float64[4, 6, 8] @[dp, sp, -] = slice(%0) {axes=<sp>, dimension=1} forward\n", "slice", reason);
  // more than one collective at once
  refused("%7 : float64[4, 6, 8] @[-, -, -] = all_gather(%0) {axes=<sp>, dimension=1} forward\n", "all_gather", reason);
  // and a partial sum out of nothing
  refused("%7 : float64[4, 6, 8] @[dp, -, -]sum(sp) = all_gather(%0) {axes=<sp>, dimension=1} forward\n", "all_gather",
          "no collective makes the partial sum");
  refused("%7 : float64[12, 8] @[-, -]sum(dp) = reshard(%1) forward\n", "reshard", "no collective makes",
          Stage::placed);
}

TEST_CASE("a collective that changes the dtype or the shape") {
  refused("%7 : float32[4, 6, 8] @[dp, -, -] = all_gather(%0) {axes=<sp>, dimension=1} forward\n", "all_gather",
          "changes the dtype");
  refused("%7 : float64[4, 8, 6] @[dp, -, -] = all_gather(%0) {axes=<sp>, dimension=1} forward\n", "all_gather",
          "is both");
}

TEST_CASE("collectives of several tensors") {
  const std::string inputs =
      "input %7 : float64[3, 4, 8] @[dp, sp, -] data \"z\"\n"
      "input %8 : float64[7] @[-]sum(dp.sp) accumulator \"bias\"\n";
  const auto say = [&](const std::string& line) { return problem(inputs + line); };
  CHECK(say("%9 : float64[4, 6, 8] @[dp, -, -], %10 : float64[3, 4, 8] @[dp, -, -] = all_gather(%0, %7) {axes=<sp>, "
            "dimension=1} forward\n") == "");
  CHECK(say("%9 : float64[12, 8] @[-, -]flat(dp.sp), %10 : float64[7] @[-]flat(dp.sp) = reduce_scatter(%4, %8) "
            "{axes=<dp.sp>} backward\n") == "");
  refused(inputs +
              "%9 : float64[4, 6, 8] @[dp, -, -], %10 : float64[3, 4, 8] @[-, sp, -] = all_gather(%0, %7) {axes=<sp>, "
              "dimension=1} forward\n",
          "all_gather", "%7: this collective does not lead from");
  refused(inputs +
              "%9 : float64[3, 4, 8] @[dp, -, -], %10 : float64[4, 6, 8] @[dp, -, -] = all_gather(%0, %7) {axes=<sp>, "
              "dimension=1} forward\n",
          "all_gather", "letter A is both");
  refused("%9 : float64[12, 8] @[-, -], %10 : float32[12, 8] @[-, -] = all_reduce(%4, %6) {axes=<dp.sp>} backward\n",
          "all_reduce", "sums values of different dtypes");
  refused(inputs +
              "%9 : float64[12, 8] @[dp, -], %10 : float64[12, 8] @[dp, -] = slice(%1, %1) {axes=<dp>, "
              "dimension=0} forward\n",
          "slice", "moves several values");
  refused(inputs + "%9 : float64[12, 8] @[dp, -], %10 : float64[12, 8] @[dp, -] = reshard(%1, %1) forward\n", "reshard",
          "moves several values", Stage::placed);
}

TEST_CASE("an axis used twice") {
  refused("%7 : float64[4, 6, 12] @[dp, dp, -] = scale(%5) {factor=2.0} forward\n", "scale", "an axis splits it twice");
  refused("%7 : float64[12, 8] @[dp, -]sum(dp) = cast(%4) backward\n", "cast", "both splits it and sums it");
  refused("%7 : float64[12, 8] @[dp, -]flat(sp) = cast(%3) backward\n", "cast", "both flat and split");
  refused("input %7 : float64[12, 8] @[dp, dp] data \"z\"\n", "input z", "an axis splits it twice");
  refused("input %7 : float64[12, 8] @[dp, -]flat(sp) parameter \"z\"\n", "input z", "both flat and split");
}

TEST_CASE("a rotation out of range") {
  refused("%7 : float64[4, 6, 8] @[dp, sp+2, -] = shift(%0) {axes=<sp>, by=2, dimension=1} forward\n", "shift",
          "rotation out of range");
  refused("input %7 : float64[12, 8] @[-+1, -] data \"z\"\n", "input z", "rotation out of range");
}

TEST_CASE("use before definition, and definition twice") {
  Graph graph = parse_graph(header +
                            "%7 : float64[4, 6, 8] @[dp, sp, -] = scale(%0) {factor=2.0} forward\n"
                            "%8 : float64[4, 6, 8] @[dp, sp, -] = scale(%7) {factor=3.0} forward\n");
  Graph swapped = graph;
  std::swap(swapped.ops[0], swapped.ops[1]);
  CHECK(verify(swapped, Stage::one_device).find("op #0 %8") != std::string::npos);
  CHECK(verify(swapped, Stage::one_device).find("%7 is used before it is defined") != std::string::npos);
  Graph twice = graph;
  twice.ops[1].results = {7};
  CHECK(verify(twice, Stage::one_device).find("%7 is defined twice") != std::string::npos);
  Graph input = graph;
  input.ops[1].results = {0};
  CHECK(verify(input, Stage::one_device).find("%0 is defined twice") != std::string::npos);
  Graph missing = graph;
  missing.outputs = {{"y", no_value}};
  CHECK(verify(missing, Stage::one_device).find("output y is not defined") != std::string::npos);
  Graph bound = graph;
  bound.inputs.push_back({"again", 0});
  CHECK(verify(bound, Stage::one_device).find("input again") != std::string::npos);
}

TEST_CASE("shapes that do not fit") {
  refused("%7 : float64[4, 6, 11] @[dp, sp, -] = einsum \"bse,fe->bsf\"(%0, %1) forward\n", "einsum",
          "letter f is both 12 and 11");
  refused("%7 : float64[4, 6] @[dp, sp] = einsum \"bse,fe->bsf\"(%0, %1) forward\n", "einsum", "has 2 dimensions");
  refused("%7 : float64[4, 6, 12] @[dp, sp, -] = add(%0, %5) forward\n", "add", "is both 8 and 12");
}

TEST_CASE("a size that does not divide") {
  refused(
      "input %7 : float64[3, 6, 8] @[dp, sp, -] data \"z\"\n"
      "%8 : float64[3, 6, 12] @[dp, sp, -] = einsum \"bse,fe->bsf\"(%7, %1) forward\n",
      "einsum", "dimension 0 of size 3 does not divide over 2 ranks");
}

TEST_CASE("a reshard left after lowering") {
  const std::string line = "%7 : float64[4, 6, 8] @[dp, -, -] = reshard(%0) forward\n";
  CHECK(problem(line, Stage::placed) == "");
  refused(line, "reshard", "left after lowering");
}

TEST_CASE("an output that is not where it is pinned") {
  refused(
      "%7 : float64[12, 8] @[-, -] \"g\" pinned=@[-, -]flat(dp.sp) = scale(%1) {factor=2.0} backward\n"
      "output \"gradient\" %7\n",
      "output gradient", "is [-, -], pinned to [-, -]flat(dp.sp)");
}

TEST_CASE("a mark that cannot be kept") {
  const auto marked = [](const std::string& mark) {
    return "%7 : float64[4, 6, 12] @[dp, sp, -] = einsum \"bse,fe->bsf\"(%0, %1) {split={" + mark + "}} forward\n";
  };
  CHECK(problem(marked("b: dp, s: sp")) == "");
  refused(marked("s: -"), "einsum", "operand 0 is [dp, sp, -], the rule needs [dp, -, -]");
  refused(marked("f: sp"), "einsum", "operand 0 is [dp, sp, -], the rule needs [dp, -, -]");
  refused(marked("q: sp"), "einsum", "no operand has the letter q");
  refused(marked("b: sp, s: sp"), "einsum", "the rule needs");
  for (const Stage stage : {Stage::one_device, Stage::placed}) {
    refused("%7 : float64[12, 8] @[-, -] = rms_norm(%1, %2) {epsilon=0.1, split={d: sp}} forward\n", "rms_norm",
            "needs letter d whole", stage);
    refused("%7 : float64[4, 6, 8] @[dp, sp, -] = einsum_add \"bsf,fe,bse->bse\"(%5, %1, %0) {split={f: sp}} forward\n",
            "einsum_add", "the addend would count once a rank", stage);
    refused("%7 : float64[12, 8] @[-, -] = reshard(%1) {split={A: sp}} forward\n", "reshard", "no mark", stage);
  }
  const Graph odd = parse_graph(
      "graph \"g\" mesh(sp=2)\n"
      "input %0 : float64[3, 8] @[-, -] data \"x\"\n"
      "input %1 : float64[12, 8] @[-, -] data \"w\"\n"
      "%2 : float64[3, 12] @[-, -] = einsum \"be,fe->bf\"(%0, %1) {split={b: sp}} forward\n");
  CHECK_THAT(verify(odd, Stage::one_device), Catch::Contains("letter b of size 3 over 2 ranks"));
}

TEST_CASE("attention whose heads are not where it was told") {
  const std::string inputs =
      "input %7 : float64[4, 6, 4, 2] @[dp, sp, -, -] data \"q\"\n"
      "input %8 : float64[4, 6, 2, 2] @[dp, -, sp, -] data \"k\"\n"
      "input %9 : int32[4, 6] @[dp, -] data \"index\"\n";
  refused(inputs +
              "%10 : float64[4, 6, 4, 2] @[dp, -, sp, -], %11 : float64[4, 4, 6] @[dp, sp, -] = "
              "attention(%7, %8, %8, %9, %9, %9) {split={g: sp, h: sp}} forward layer=3\n",
          "layer=3", "operand 0 is [dp, sp, -, -], the rule needs [dp, -, sp, -]");
}

TEST_CASE("pairs: a start and its wait") {
  const std::string out = "%10 : float64[4, 6, 8] @[dp, sp, -] host = offload.start(%0) forward\n";
  const std::string out_done = "%11 : float64[4, 6, 8] @[dp, sp, -] host = offload.wait(%10, %0) forward\n";
  const std::string back = "%12 : float64[4, 6, 8] @[dp, sp, -] = reload.start(%11) backward\n";
  const std::string back_done = "%13 : float64[4, 6, 8] @[dp, sp, -] = reload.wait(%12, %11) backward\n";
  const std::string second = "%14 : float64[4, 6, 12] @[dp, sp, -] host = offload.start(%5) forward\n";
  const std::string second_done = "%15 : float64[4, 6, 12] @[dp, sp, -] host = offload.wait(%14, %5) forward\n";
  SECTION("legal") {
    CHECK(problem(out + out_done + back + back_done) == "");
    CHECK(problem(out + second + out_done + back + second_done + back_done) == "");
    // Flat shards and partial sums travel as they are.
    CHECK(problem("%10 : float64[12, 8] @[-, -]flat(dp.sp) host = offload.start(%3) forward\n"
                  "%11 : float64[12, 8] @[-, -]sum(dp.sp) host = offload.start(%4) forward\n"
                  "%12 : float64[12, 8] @[-, -]flat(dp.sp) host = offload.wait(%10, %3) forward\n"
                  "%13 : float64[12, 8] @[-, -]sum(dp.sp) host = offload.wait(%11, %4) forward\n") == "");
  }
  SECTION("a start that nothing waits for") {
    CHECK(problem(out) == "nothing waits for offload.start, started on queue out");
    CHECK(problem(out + out_done + back) == "nothing waits for reload.start, started on queue in");
  }
  SECTION("a wait before its start, twice, or for something else") {
    Graph graph = parse_graph(header + out + out_done + back + back_done);
    std::swap(graph.ops[0], graph.ops[1]);
    CHECK(verify(graph, Stage::lowered).find("is used before it is defined") != std::string::npos);
    refused(out + out_done + "%12 : float64[4, 6, 8] @[dp, sp, -] host = offload.wait(%10, %0) forward\n", "op #2",
            "nothing was started on queue out");
    refused(out + "%11 : float64[4, 6, 8] @[dp, sp, -] host = offload.wait(%10, %10) forward\n", "op #1",
            "the oldest start on queue out that nothing has waited for is another");
  }
  SECTION("waits in another order than starts") {
    refused(out + second + second_done + out_done, "op #2 %15", "is another: %10");
  }
  SECTION("a staging value that others read") {
    refused(
        out + out_done + back + "%16 : float64[4, 6, 8] @[dp, sp, -] = scale(%12) {factor=2.0} backward\n" + back_done,
        "scale", "operand %12 is a staging value, which only its wait reads");
    refused(
        out + out_done + back + back_done + "%16 : float64[4, 6, 8] @[dp, sp, -] = scale(%12) {factor=2.0} backward\n",
        "scale", "operand %12 is a staging value");
    CHECK(problem(out + out_done + back + back_done + "output \"y\" %12\n") == "output y is a staging value");
  }
  SECTION("spaces") {
    refused(out + out_done + "%16 : float64[4, 6, 8] @[dp, sp, -] = scale(%11) {factor=2.0} backward\n", "scale",
            "%11 is in host memory, it must be in device memory");
    refused("%10 : float64[4, 6, 8] @[dp, sp, -] = offload.start(%0) forward\n", "offload.start",
            "%10 is in device memory, it must be in host memory");
    refused("%10 : float64[4, 6, 8] @[dp, sp, -] host = scale(%0) {factor=2.0} forward\n", "scale",
            "%10 is in host memory, it must be in device memory");
    refused("%12 : float64[4, 6, 8] @[dp, sp, -] = reload.start(%0) backward\n", "reload.start",
            "%0 is in device memory, it must be in host memory");
    CHECK(problem(out + out_done + "output \"y\" %11\n") == "output y is in host memory");
    CHECK(verify(parse_graph("graph \"g\" mesh(dp=1)\ninput %0 : float64[4] @[-] host data \"x\"\n"), Stage::placed) ==
          "input x is in host memory");
  }
}

TEST_CASE("collectives in two halves") {
  const std::string gather = "%10 : float64[12, 8] @[-, -] = all_gather.start(%3) {axes=<dp.sp>} forward\n";
  const std::string gather_done = "%11 : float64[12, 8] @[-, -] = all_gather.wait(%10, %3) {axes=<dp.sp>} forward\n";
  const std::string sum =
      "%12 : float64[12, 8] @[-, -]flat(dp.sp) = reduce_scatter.start(%4) {axes=<dp.sp>} backward\n";
  const std::string sum_done =
      "%13 : float64[12, 8] @[-, -]flat(dp.sp) = reduce_scatter.wait(%12, %4) {axes=<dp.sp>} backward\n";
  const std::string two =
      "%14 : float64[4, 6, 8] @[dp, -, sp], %15 : float64[4, 6, 12] @[dp, -, sp] = all_to_all.start(%0, %5) "
      "{axes=<sp>, "
      "dimension=1, split=2} forward\n";
  const std::string two_done =
      "%16 : float64[4, 6, 8] @[dp, -, sp], %17 : float64[4, 6, 12] @[dp, -, sp] = all_to_all.wait(%14, %15, %0, %5) "
      "{axes=<sp>, dimension=1, split=2} forward\n";
  SECTION("legal, each link by itself") {
    CHECK(problem(gather + sum + two + two_done + gather_done + sum_done) == "");
    const Graph graph = parse_graph(header + gather + two + two_done + gather_done);
    CHECK(print(parse_graph(print(graph))) == print(graph));
  }
  SECTION("what a wait says of its start") {
    refused(gather + "%11 : float64[12, 8] @[-, -] = all_gather.wait(%10, %3) {axes=<dp>} forward\n", "op #1",
            "is another: %10");
    refused(two +
                "%16 : float64[4, 6, 8] @[dp, -, sp], %17 : float64[4, 6, 12] @[dp, -, sp] = all_to_all.wait(%15, %14, "
                "%5, %0) {axes=<sp>, dimension=1, split=2} forward\n",
            "op #1", "is another: %14");
    refused(gather + "%11 : float64[12, 8] @[-, -]flat(dp.sp) = all_gather.wait(%10, %3) {axes=<dp.sp>} forward\n",
            "op #1", "does not lead");
    refused("%10 : float64[12, 8] @[dp, -] = all_gather.start(%3) {axes=<dp.sp>} forward\n", "op #0", "does not lead");
  }
  SECTION("a wait that is missing, or comes first") {
    CHECK(problem(gather) == "nothing waits for all_gather.start, started on queue gather");
    Graph graph = parse_graph(header + gather + gather_done);
    std::swap(graph.ops[0], graph.ops[1]);
    CHECK(verify(graph, Stage::lowered).find("is used before it is defined") != std::string::npos);
    refused(gather + gather_done + "%18 : float64[12, 8] @[-, -] = all_gather.wait(%10, %3) {axes=<dp.sp>} forward\n",
            "op #2", "nothing was started on queue gather");
  }
  SECTION("waits of a link in another order than its starts") {
    const std::string second = "%18 : float64[12, 8] @[-, -] = all_reduce.start(%4) {axes=<dp.sp>} backward\n";
    const std::string second_done = "%19 : float64[12, 8] @[-, -] = all_reduce.wait(%18, %4) {axes=<dp.sp>} backward\n";
    CHECK(problem(sum + second + sum_done + second_done) == "");
    refused(sum + second + second_done + sum_done, "op #2", "the oldest start on queue reduce");
  }
  SECTION("a staging value that others read") {
    refused(gather + "%18 : float64[12, 8] @[-, -] = scale(%10) {factor=2.0} forward\n" + gather_done, "scale",
            "%10 is a staging value");
  }
}
