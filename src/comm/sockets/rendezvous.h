// How processes without an MPI find one another: rank 0 listens on a port that all can work out, takes everyone who
// shows the job's token, and tells each where the others are; then every two have a connection.
#pragma once
#include <array>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "comm/sockets/connection.h"

namespace longhaul::sockets {

/// Known to the processes of one job: 16 bytes, so that those of an earlier or a foreign one are told apart.
using Token = std::array<std::uint8_t, 16>;

/// Who this process is among those of its job.
struct Place {
  int rank = 0, size = 1;
  std::string address;     ///< of rank 0's host
  std::vector<int> ports;  ///< that rank 0 may listen on, the first free one
  Token token{};
  std::string source;                   ///< what said so, for messages: "Slurm step 812.0"
  std::optional<Socket> listener = {};  ///< rank 0's, where it listens already
};

/// From the environment: RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT (29500 where that is unset), as torchrun and
/// Kubernetes' training operators set them; else Slurm's step (SLURM_PROCID, SLURM_STEP_NUM_TASKS; rank 0 on the first
/// host of SLURM_STEP_NODELIST, a port by the step's number; MASTER_ADDR and MASTER_PORT go before both); else Open
/// MPI's or PMI's rank and size with MASTER_ADDR. The token is a hash of what names the job: all that is said above,
/// the step and how often it was requeued, LONGHAUL_JOB_TOKEN. Throws Error that says what is missing or makes no
/// sense.
Place place_from_environment();

/// The first host of a Slurm list: "n3" of "n[3-5,9],m1". Throws Error for what is none.
std::string first_host(const std::string& list);

/// A token of everything in `text`.
Token token_of(const std::string& text);

/// The connection of every other rank, by rank; its own is empty.
struct Peer {
  Socket socket;
  std::string name;  ///< "rank 3 (n2, process 4711)"
};

/// Collective. Everyone waits for everyone, at most `patience`; who is missing is said after ten seconds and then every
/// minute. Throws Error: rank 0 cannot be reached, or no port is free; another rank of the same number is there; the
/// ranks do not agree on how many they are or are of versions that do not understand each other; who did not come.
std::vector<Peer> connect_all(Place place, std::chrono::seconds patience);

}  // namespace longhaul::sockets
