// AdamW with decoupled weight decay (arXiv 1711.05101), step for step as torch.optim.AdamW.
#include "ir/builder.h"

namespace longhaul {
namespace {

std::vector<DType> types(const Graph& graph, const Op& op) {
  return {graph[op.operands[0]].dtype, graph[op.operands[1]].dtype, graph[op.operands[2]].dtype};
}

// first moment, second moment, parameter, gradient, clip coefficient, learning rate, step -> first moment, second
// moment, parameter. The moments come first: their layout decides where the update is computed. Attributes beta1,
// beta2, epsilon, weight_decay.
const OpRegistration adamw({.name = "adamw",
                            .signature = "*,*,*,*,,,->*,*,*",
                            .pointwise = true,
                            .result_types = types,
                            .in_place = {{0, 0}, {1, 1}, {2, 2}},
                            .master_results = {0, 1, 2}});

std::vector<DType> types_in_8_bits(const Graph& graph, const Op& op) {
  std::vector<DType> list;
  for (std::size_t i = 0; i < 5; ++i) list.push_back(graph[op.operands[i]].dtype);
  return list;
}

// The same with moments in 8 bits: codes (uint8) and, of every block of them, a scale (float32).
// first moment's codes, its scales, second moment's codes, its scales, then as above -> the first five.
const OpRegistration adamw_8bit({.name = "adamw_8bit",
                                 .signature = "*,q,*,q,*,*,,,->*,q,*,q,*",
                                 .pointwise = true,
                                 .blocks = "q",
                                 .result_types = types_in_8_bits,
                                 .in_place = {{0, 0}, {1, 1}, {2, 2}, {3, 3}, {4, 4}},
                                 .master_results = {1, 3, 4}});

}  // namespace
}  // namespace longhaul
