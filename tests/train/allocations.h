// Counts this test program's allocations, by the library whose code asked for them.
#pragma once
#include <string>
#include <vector>

namespace longhaul::testing {

/// Starts to count from zero; every thread of the process.
void start_counting();
void stop_counting();

/// operator new calls since start_counting, whoever made them.
long operator_new_calls();

struct LibraryAllocations {
  std::string library;  ///< the file's name without folder and version: libdnnl, libopen-pal, test_train
  long calls = 0;
  long bytes = 0;
};

/// What was counted, most bytes first: malloc and its kin as well as operator new. Only operator new under a sanitizer,
/// which has a malloc of its own.
std::vector<LibraryAllocations> counted_by_library();

/// Bytes of the heap in use by the whole process, and of its address space.
long heap_in_use();
long address_space();

}  // namespace longhaul::testing
