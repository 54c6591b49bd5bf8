// Argument checks that every transport makes; each throws std::logic_error (a defect of the caller).
#pragma once
#include <cstddef>
#include <vector>

namespace longhaul {

/// The place of `rank` in `members`, which must be distinct ranks of a communicator of `size` ranks and hold `rank`.
int rank_in_group(const std::vector<int>& members, int rank, int size);

/// `to` and `from` are ranks of the communicator; a rank that sends to itself receives from itself as many bytes.
void check_send_receive(int rank, int size, int to, int from, std::size_t send_bytes, std::size_t receive_bytes);

}  // namespace longhaul
