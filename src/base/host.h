// What is known of the machine that this process runs on.
#pragma once
#include <cstdint>
#include <string>

namespace longhaul {

/// Its name, cut after 63 bytes; empty when it has none.
std::string host_name();
/// The CPU's model as the system names it; "unknown" where it does not.
std::string cpu_model();
/// Hardware threads of the machine, at least 1.
int machine_cores();
/// Those that this process may use: fewer than the machine's under a launcher that binds ranks, or taskset.
int usable_cores();
/// Bytes of memory: the machine's, or what its control group (a container, a Slurm job) allows where that is less.
std::int64_t host_memory();
/// Bytes that this process has touched and that are no file's (arenas, heaps, stacks); 0 where the system does not say.
std::int64_t process_memory();
/// Bytes of the machine's physical memory, whatever a control group allows.
std::int64_t physical_memory();

}  // namespace longhaul
