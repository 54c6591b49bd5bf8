// Every collective against a naive oracle, for any transport. Checks throw Error instead of using Catch: they run in
// rank threads, where Catch's assertions are not safe.
#pragma once
#include <cstdint>
#include <vector>

#include "comm/communicator.h"

namespace longhaul {

/// Runs every collective over element types, odd counts and in-place forms, compares each with the oracle bitwise, and
/// checks that nothing outside the receive buffer is written and that inputs stay. `large` adds reductions of several
/// pieces. Collective.
void check_collectives(Communicator& communicator, bool large);

/// Makes the rows and columns of a 2 x 2 mesh (four ranks) and checks all collectives on each, and that each counts its
/// own traffic only.
void check_mesh_groups(Communicator& communicator);

/// Compares what one rank has issued with the header's formulas, and checks that no data call allocates.
void check_traffic(Communicator& communicator);

/// The bits of a fixed list of reductions, whose sums depend on the order of addition. Collective.
std::vector<std::uint8_t> reduction_bits(Communicator& communicator);

/// Texts and values of every rank on every rank: empty texts, of all bytes, and longer than any message was allowed to
/// be before. Collective.
void check_exchange(Communicator& communicator);

}  // namespace longhaul
