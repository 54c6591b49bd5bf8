// Ranks that were not given the same compute wrong numbers without a sign, or wait for each other for ever. So whatever
// decides numbers is held against rank 0's before the first collective of a program: in two steps, since files are read
// in between.
#pragma once
#include <string>
#include <utility>
#include <vector>

#include "comm/communicator.h"
#include "run/setup.h"

namespace longhaul {

/// What a rank was given: names ("training.seed", "LONGHAUL_KERNELS", "data.files, the 2nd") and values. A difference
/// is reported by the first in order, so the causes stand before what follows from them.
using Facts = std::vector<std::pair<std::string, std::string>>;

/// The program (version, commit, compiler, libraries, MPI), environment variables that decide what is computed, and
/// every key of the experiment that is no path: what stands behind paths is compared by its contents (file_facts).
Facts given_facts(const Experiment& experiment);

/// The CPU's model, its instruction set in use, what narrows those of libraries, and the rank's threads. May differ
/// with distributed.different_cpus.
Facts machine_facts(const RunSetup& setup);

/// What became of all that: model, layout and precision, as far as every rank resolves it by itself.
Facts setup_facts(const RunSetup& setup);

/// Size and sampled hash of every data, validation and weight file: sampled_hash. Throws Error for a file that cannot
/// be read.
Facts file_facts(const RunSetup& setup);

/// XXH3 of a file's size and of `blocks` pieces of 4 KiB of it, evenly spaced, its first and last among them (of all
/// its bytes when there are no more than that), in hexadecimal. Throws Error when it cannot be read.
std::string sampled_hash(const std::string& file, int blocks);

/// Throws, on all ranks (as agree() does), when a rank's facts are not rank 0's: the lowest such rank names the first
/// difference, both values, and both hosts. Collective; one all_gather of 8 bytes when all is well.
/// `advice`: what to do about it.
void check_facts(Communicator& world, const Facts& facts,
                 const std::string& advice =
                     "All ranks must be started with the same program, experiment, environment "
                     "and files");

/// check_facts of file_facts; nothing for ranks that are threads, which open the same files. Collective.
void check_files(Communicator& world, const RunSetup& setup);

/// prepare_run on all ranks, after check_facts of what they were given and followed by that of what became of it.
/// Different machines are refused, or logged where distributed.different_cpus allows them. Collective.
RunSetup prepare_agreed_run(Communicator& world, const Experiment& experiment, Purpose purpose = Purpose::train);

}  // namespace longhaul
