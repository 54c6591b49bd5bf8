// The end of a failed job.
#pragma once

namespace longhaul {

/// Prints "rank R: message" to standard error (the rank in MPI_COMM_WORLD; null: nothing) and ends all processes of the
/// job with the exit code. Does not return unless MPI_Abort does.
void abort_job(const char* message, int code = 1) noexcept;

}  // namespace longhaul
