// Silent corruption: what several ranks hold of the same must be the same bits, and numbers must be numbers.
#pragma once
#include "run/session.h"

namespace longhaul {

/// Hashes every parameter, moment and compute copy on every rank and compares those that hold the same part of it, then
/// compares each rank's compute copies with the rounding of the masters that it holds. Throws, on all ranks as agree()
/// does, naming the first tensor and the ranks that differ (from most of the others, or from each other when no value
/// has most). Collective; reads the state once and moves 8 bytes a tensor.
void verify_replicas(Session& session);

/// Throws, on all ranks, when a parameter or moment holds what is not finite: tensor, element and rank. Collective.
void require_finite_state(Session& session);

}  // namespace longhaul
