// All ranks of a group must issue the same collectives in the same order, or they wait for each other for ever, or take
// one tensor for another. Every rank compiles its programs by itself; here they are held against each other before the
// first collective of a run.
#pragma once
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "runtime/program.h"

namespace longhaul {

/// What a rank issues, in order: the mesh, then one line for each collective of each program, with its group, dtype and
/// the bytes that it sends to each, and of one in two halves a line each with its link and place. Equal on all ranks of
/// the world, for any program that is legal.
std::vector<std::string> collective_order(const std::vector<const Program*>& programs, int rank);

/// Collective over `world`; costs one all_gather of 8 bytes when all is well. Otherwise every rank throws (as agree()
/// does) with the lowest rank that differs from rank 0, the first collective in which it does, and both versions.
void check_collective_order(Communicator& world, const std::vector<const Program*>& programs);

}  // namespace longhaul
