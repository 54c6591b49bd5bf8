// Counts the calling thread's uses of operator new in this test program.
#pragma once
#include <cstddef>

namespace longhaul {

/// How often this thread has called operator new.
std::size_t allocation_count();

}  // namespace longhaul
