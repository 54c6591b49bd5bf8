// The ops of optimizers as calls of the device's optimizer_step: one tensor by itself, or a row of a table of many.
#pragma once
#include <string>
#include <string_view>

#include "kernels/cuda/api.h"
#include "runtime/kernel.h"

namespace longhaul {

/// Everything but pointers, for adamw, sgd, sgd_momentum, muon_momentum and muon_step; false with the reason for what
/// the device does not compute and for other ops.
bool optimizer_step(const LocalOp& op, cuda::OptimizerStep& step, std::string& refusal);
/// The pointers, of the op of this name. Results that continue operands must lie where those do.
void connect_optimizer(cuda::OptimizerStep& step, std::string_view name, const void* const* operands,
                       void* const* results);

}  // namespace longhaul
