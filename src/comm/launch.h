// How ranks come to be: one process (one rank), threads of one process (--ranks N), processes under an MPI launcher, or
// processes that find one another by sockets.
#pragma once
#include <chrono>
#include <functional>

#include "comm/communicator.h"

namespace longhaul {

/// Runs body(communicator) on `ranks` threads of this process and returns the largest of their results. A rank that
/// throws wakes all others; the first failure (by time) is rethrown here, with its rank in the message when ranks > 1.
/// An Error is rethrown as Error, a std::logic_error as such, any other std::exception as std::runtime_error. Sets the
/// log rank of each thread. One rank runs on the calling thread. Communicators may not be used after the body has
/// returned. Throws Error when ranks < 1.
int run_threads(int ranks, const std::function<int(Communicator&)>& body);

/// True when this build has MPI.
bool mpi_available();
/// True when the environment shows an MPI or Slurm launcher: OMPI_COMM_WORLD_SIZE, PMI_SIZE or SLURM_STEP_NUM_TASKS is
/// set (in that order; never SLURM_NTASKS, which is the whole job's).
bool under_launcher();
/// The MPI library and its version ("Open MPI v4.1.4"); empty without MPI. Any time.
std::string mpi_library();
/// The exit code of a job that somebody ended because a rank, or its device, did not go on.
inline constexpr int exit_hung = 86;
/// Ends the whole job at once from any thread, whatever its ranks wait for: all processes of an MPI job, otherwise this
/// one, with `code`. Prints nothing, flushes nothing, runs no destructor.
[[noreturn]] void end_job(const Communicator& world, int code) noexcept;
/// Initialises MPI, checks its size against the launcher's variable (a mismatch is an Error that says what to do: N
/// singletons must not look like N ranks), runs body on MPI_COMM_WORLD, finalises, and returns, on every rank, the
/// largest of the ranks' results. An exception in body prints "rank R: message" to standard error, once, and ends the
/// whole job with code 1; a PeerFailure prints nothing (its origin does). Once in a process. Throws Error when this
/// build has no MPI.
int run_mpi(const std::function<int(Communicator&)>& body);

/// The exit code of ranks that talk by sockets when one of them was killed or its host is down.
inline constexpr int exit_lost_rank = 87;

/// Ranks as processes that some launcher started and that find one another over TCP (comm/sockets/rendezvous.h says how
/// and what it reads). Runs body and returns, on every rank, the largest of the ranks' results; where another
/// rank failed, which prints its message, 1; exit_lost_rank where one is gone without a word, which is printed. Throws
/// Error with the rank in the message for a failure of this one, which all others are told; and for what connect_all
/// throws.
int run_sockets(const std::function<int(Communicator&)>& body);
/// The same on `ranks` processes that it starts on this host: copies of this one, which must have no other threads. In
/// this process it passes signals on to them and returns the largest of their exit codes (128 + the signal of one that
/// was killed); what their bodies throw they print. When one has failed the others have `patience` to end; then they
/// are killed, of which a line warns. Throws Error when processes cannot be started.
int run_processes(int ranks, const std::function<int(Communicator&)>& body,
                  std::chrono::milliseconds patience = std::chrono::seconds(30));

}  // namespace longhaul
