// tile_loss_head: projection, loss and their gradients become one op, unless somebody else wants the logits.
#include <catch2/catch.hpp>

#include "ir/verifier.h"
#include "passes/pass.h"
#include "tests/passes/pass_text.h"

using namespace longhaul;
using test::op_names;

namespace {

const std::string header =
    "graph \"g\" mesh(dp=1)\n"
    "input %0 : float64[2, 4, 8] @[-, -, -] data \"x\"\n"
    "input %1 : float64[13, 8] @[-, -] parameter \"w\"\n"
    "input %2 : int32[2, 4] @[-, -] data \"labels\"\n"
    "input %3 : float64[] @[] scalar \"inverse_count\"\n";
const std::string forward =
    "%4 : float64[2, 4, 13] @[-, -, -] \"logits\" = einsum \"bse,ve->bsv\"(%0, %1) forward by=model\n"
    "%5 : float64[] @[] = cross_entropy(%4, %2) {soft_cap=5.0} forward by=loss\n"
    "%6 : float64[] @[] = multiply(%5, %3) forward by=loss\n";
const std::string backward =
    "%7 : float64[] @[] = constant() {value=1.0} backward\n"
    "%8 : float64[] @[] = multiply(%7, %3) backward\n"
    "%9 : float64[2, 4, 13] @[-, -, -] = cross_entropy_gradient(%4, %2, %8) {soft_cap=5.0} backward\n"
    "%10 : float64[2, 4, 8] @[-, -, -] = einsum \"bsv,ve->bse\"(%9, %1) backward\n"
    "%11 : float64[13, 8] @[-, -] = einsum \"bsv,bse->ve\"(%9, %0) backward\n";
const std::string outputs = "output \"loss\" %6\noutput \"dx\" %10\noutput \"dw\" %11\n";

Graph tiled(const std::string& lines) {
  Graph graph = parse_graph(header + lines);
  REQUIRE(verify(graph, Stage::one_device) == "");
  const CompileOptions compile;
  passes::tile_loss_head(graph, {compile, ProgramKind::accumulate_only});
  REQUIRE(verify(graph, Stage::one_device) == "");
  return graph;
}

using Names = std::vector<std::string>;

}  // namespace

TEST_CASE("loss and gradients become one op; what reads the loss comes after it") {
  const Graph graph = tiled(forward + backward + outputs);
  CHECK(op_names(graph) == Names{"constant", "multiply", "loss_head", "multiply"});
  CHECK(print(graph, test::find(graph, "loss_head")) ==
        "%5 : float64[] @[], %10 : float64[2, 4, 8] @[-, -, -], %11 : float64[13, 8] @[-, -] = "
        "loss_head(%0, %1, %2, %8) {soft_cap=5.0} backward by=tile_loss_head");
  CHECK(graph.output("loss") == 6);
}

TEST_CASE("evaluate needs the loss only") {
  const Graph graph = tiled(forward + "output \"loss\" %6\n");
  CHECK(op_names(graph) == Names{"loss_head_evaluate", "multiply"});
}

TEST_CASE("each token's own loss comes out of the same op") {
  const std::string tokens =
      "%4 : float64[2, 4, 13] @[-, -, -] \"logits\" = einsum \"bse,ve->bsv\"(%0, %1) forward by=model\n"
      "%5 : float64[] @[], %12 : float64[2, 4] @[-, -] = cross_entropy_tokens(%4, %2) {soft_cap=5.0} forward by=loss\n"
      "%6 : float64[] @[] = multiply(%5, %3) forward by=loss\n";
  const Graph trained = tiled(tokens + backward + outputs + "output \"token_losses\" %12\n");
  CHECK(op_names(trained) == Names{"constant", "multiply", "loss_head_tokens", "multiply"});
  CHECK(print(trained, test::find(trained, "loss_head_tokens")) ==
        "%5 : float64[] @[], %12 : float64[2, 4] @[-, -], %10 : float64[2, 4, 8] @[-, -, -], %11 : float64[13, 8] @[-, "
        "-] = loss_head_tokens(%0, %1, %2, %8) {soft_cap=5.0} backward by=tile_loss_head");
  const Graph evaluated = tiled(tokens + "output \"loss\" %6\noutput \"token_losses\" %12\n");
  CHECK(op_names(evaluated) == Names{"loss_head_evaluate_tokens", "multiply"});
}

TEST_CASE("a head that is not trained has no gradient by its weight, and its logits are never whole either") {
  const std::string input_alone =
      "%7 : float64[] @[] = constant() {value=1.0} backward\n"
      "%8 : float64[] @[] = multiply(%7, %3) backward\n"
      "%9 : float64[2, 4, 13] @[-, -, -] = cross_entropy_gradient(%4, %2, %8) {soft_cap=5.0} backward\n"
      "%10 : float64[2, 4, 8] @[-, -, -] = einsum \"bsv,ve->bse\"(%9, %1) backward\n";
  const Graph graph = tiled(forward + input_alone + "output \"loss\" %6\noutput \"dx\" %10\n");
  CHECK(op_names(graph) == Names{"constant", "multiply", "loss_head_frozen", "multiply"});
  CHECK(print(graph, test::find(graph, "loss_head_frozen")) ==
        "%5 : float64[] @[], %10 : float64[2, 4, 8] @[-, -, -] = loss_head_frozen(%0, %1, %2, %8) {soft_cap=5.0} "
        "backward by=tile_loss_head");
}

TEST_CASE("tile_loss_head does not fire") {
  const auto stays = [](const std::string& lines) {
    const Graph graph = tiled(lines);
    return test::count(graph, "cross_entropy") == 1 && test::count(graph, "loss_head") == 0 &&
           test::count(graph, "loss_head_evaluate") == 0;
  };
  CHECK_FALSE(stays(forward + backward + outputs));
  CHECK(stays(forward + backward + outputs + "output \"logits\" %4\n"));
  CHECK(stays(forward + "output \"loss\" %6\noutput \"logits\" %4\n"));
  const std::string reader = "%12 : float64[] @[] = sum_squares(%4) forward\noutput \"norm\" %12\n";
  CHECK(stays(forward + reader + backward + outputs));
  CHECK(stays(forward + reader + "output \"loss\" %6\n"));
  // the gradient of the logits is wanted too
  CHECK(stays(forward + backward + outputs + "output \"dlogits\" %9\n"));
  CHECK(stays(forward + backward + "%12 : float64[] @[] = sum_squares(%9) backward\noutput \"n\" %12\n" + outputs));
  // by more products than the two
  CHECK(stays(forward + backward + "%12 : float64[2, 4, 8] @[-, -, -] = einsum \"bsv,ve->bse\"(%9, %1) backward\n" +
              outputs + "output \"again\" %12\n"));
  // or not by both
  CHECK(stays(forward +
              "%9 : float64[2, 4, 13] @[-, -, -] = cross_entropy_gradient(%4, %2, %3) {soft_cap=5.0} backward\n"
              "%11 : float64[13, 8] @[-, -] = einsum \"bsv,bse->ve\"(%9, %0) backward\n"
              "output \"loss\" %6\noutput \"dw\" %11\n"));
  // products with other tensors than the projection's
  CHECK(stays(forward +
              "%9 : float64[2, 4, 13] @[-, -, -] = cross_entropy_gradient(%4, %2, %3) {soft_cap=5.0} backward\n"
              "%12 : float64[13, 8] @[-, -] = scale(%1) {factor=2.0} backward\n"
              "%10 : float64[2, 4, 8] @[-, -, -] = einsum \"bsv,ve->bse\"(%9, %12) backward\n"
              "%11 : float64[13, 8] @[-, -] = einsum \"bsv,bse->ve\"(%9, %0) backward\n" +
              outputs));
  // no projection
  CHECK(
      stays("input %12 : float64[2, 4, 13] @[-, -, -] data \"given\"\n"
            "%5 : float64[] @[] = cross_entropy(%12, %2) forward\noutput \"loss\" %5\n"));
}
