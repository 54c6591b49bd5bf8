// inspect: what a model file became, in numbers. Trains nothing and allocates no tensor.
#pragma once
#include <string>

#include "model/huggingface.h"

namespace longhaul {

/// The spec, its parameters, FLOPs per token and bytes of state, as text.
std::string inspect_model(const LoadedModel& model);

}  // namespace longhaul
