// Stochastic gradient descent, step for step as torch.optim.SGD without dampening: weight decay is added to the
// gradient, the momentum is a sum of gradients of which a part is kept.
#include "ir/builder.h"

namespace longhaul {
namespace {

std::vector<DType> types_of_both(const Graph& graph, const Op& op) {
  return {graph[op.operands[0]].dtype, graph[op.operands[1]].dtype};
}
std::vector<DType> type_of_parameter(const Graph& graph, const Op& op) {
  return {graph[op.operands[1]].dtype};
}

// first moment, parameter, gradient, clip coefficient, learning rate -> first moment, parameter. The moment comes
// first: its layout decides where the update is computed. Attributes momentum, nesterov (0 or 1), weight_decay.
const OpRegistration sgd_momentum({.name = "sgd_momentum",
                                   .signature = "*,*,*,,->*,*",
                                   .pointwise = true,
                                   .result_types = types_of_both,
                                   .in_place = {{0, 0}, {1, 1}},
                                   .master_results = {0, 1}});

// gradient, parameter, clip coefficient, learning rate -> parameter: computed where the reduced gradient lies.
// Attribute weight_decay.
const OpRegistration sgd({.name = "sgd",
                          .signature = "*,*,,->*",
                          .pointwise = true,
                          .result_types = type_of_parameter,
                          .in_place = {{0, 1}},
                          .master_results = {0}});

}  // namespace
}  // namespace longhaul
