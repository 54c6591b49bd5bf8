#include "allocation_count.h"

#include <cstdlib>
#include <new>

// Both sides are replaced here, with malloc and free underneath; GCC, seeing only one of them inlined, takes that for a
// mismatch.
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"

namespace {
thread_local std::size_t allocations = 0;

void* allocate(std::size_t bytes, std::size_t alignment) {
  ++allocations;
  void* result = nullptr;
  if (alignment <= alignof(std::max_align_t))
    result = std::malloc(bytes ? bytes : 1);
  else if (posix_memalign(&result, alignment, bytes) != 0)
    result = nullptr;
  if (!result) throw std::bad_alloc();
  return result;
}
}  // namespace

std::size_t longhaul::allocation_count() {
  return allocations;
}

// The array forms call these.
void* operator new(std::size_t bytes) {
  return allocate(bytes, 0);
}
// Under a sanitizer the non-throwing form would come from its runtime, and our delete would not fit it.
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
  try {
    return allocate(bytes, 0);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return allocate(bytes, static_cast<std::size_t>(alignment));
}
void operator delete(void* pointer) noexcept {
  std::free(pointer);
}
void operator delete(void* pointer, std::size_t) noexcept {
  std::free(pointer);
}
void operator delete(void* pointer, std::align_val_t) noexcept {
  std::free(pointer);
}
void operator delete(void* pointer, std::size_t, std::align_val_t) noexcept {
  std::free(pointer);
}
