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

}  // namespace
}  // namespace longhaul
