// Where faults are planted (faults.h): what several of them look for, and those of the optimizer, which are in a file
// of their own.
#pragma once
#include <algorithm>

#include "ir/graph.h"
#include "passes/pass.h"

namespace longhaul::fault {

inline bool same_type(const Value& a, const Value& b) {
  return a.shape == b.shape && a.dtype == b.dtype && a.layout == b.layout;
}

/// null: there is none.
template <typename Wants>
Op* first_op(Graph& graph, Wants&& wants) {
  const auto found = std::find_if(graph.ops.begin(), graph.ops.end(), wants);
  return found == graph.ops.end() ? nullptr : &*found;
}

// ---- of the optimizer (faults_optimizer.cpp): each returns whether it found a place
bool norm_without_a_parameter(Graph& graph, const PassContext& context);
bool keeps_more_of_a_moment(Graph& graph, const PassContext& context);
bool takes_unclipped_gradients(Graph& graph, const PassContext& context);
bool takes_columns_for_rows(Graph& graph, const PassContext& context);
bool rounds_moments(Graph& graph, const PassContext& context);
bool exchanges_rounded_moments(Graph& graph, const PassContext& context);
bool takes_another_gradient(Graph& graph, const PassContext& context);
bool orthogonalizes_another_update(Graph& graph, const PassContext& context);

}  // namespace longhaul::fault
