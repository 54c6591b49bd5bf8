// The text of a graph: what is taken prints as a text that gives the same graph, and the verifier takes or refuses it.
#include <nlohmann/json.hpp>

#include "fuzz.h"
#include "ir/graph.h"
#include "ir/verifier.h"

using namespace longhaul;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::taken([&] {
    const Graph graph = parse_graph(fuzz::text(data, size));
    const std::string text = print(graph);
    fuzz::require(print(parse_graph(text)) == text, "a graph's text gives the graph");
    (void)verify(graph, {});
  });
  return 0;
}
