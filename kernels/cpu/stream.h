// Which outputs are stored past the caches, and how large the caches are.
#pragma once
#include <cstddef>
#include <cstdint>

namespace longhaul::cpu {

/// Bytes of one last-level cache, as the kernel lists it; 32 MiB where it does not. (sysconf adds up what a processor
/// has in several parts, of which a core can use one.)
std::int64_t last_level_cache_bytes();

/// Whether an output of this size (LONGHAUL_STREAM_BYTES, or half of the last-level cache) should be stored past the
/// caches: the last-level cache would not keep it for whoever reads it next, and an ordinary store first reads the line
/// that it overwrites, a third of the traffic of a copy.
bool past_caches(std::int64_t bytes);
/// The same for a kernel whose output is in rows of `row_bytes`. Never where the output is one of the inputs (a null
/// pointer is none), or where rows do not begin on cache lines. Numbers are the same either way.
bool past_caches(const void* output, std::int64_t bytes, std::int64_t row_bytes, const void* input = nullptr,
                 const void* other_input = nullptr, const void* third_input = nullptr);

/// memcpy and zeroes, past the caches if `past`; finish_streams() before another thread is told of it.
void copy_bytes(void* to, const void* from, std::size_t bytes, bool past);
void clear_bytes(void* to, std::size_t bytes, bool past);
void finish_streams();

}  // namespace longhaul::cpu
