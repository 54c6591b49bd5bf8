// Small kernels that are right on warps of 32 lanes and on waves of 64, and whose planted defects show on waves alone:
// what independent scheduling of lanes lets pass, and lock step does not. Each returns what went wrong, or "".
#pragma once
#include <string>

namespace longhaul::test {

/// Threads of a block add to one sum, in their order.
std::string add_in_turn();
/// A warp leaves a value for each lane of the next one.
std::string hand_over_between_warps();
/// The lower half of a warp leaves a value for each lane of the upper.
std::string hand_over_in_a_warp();
/// Every thread that has something to keep counts those before it in its warp.
std::string places_by_votes();

}  // namespace longhaul::test
