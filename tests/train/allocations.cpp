#include "allocations.h"
#include "base/sanitizers.h"

#include <dlfcn.h>
#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <map>
#include <new>

// Both sides are replaced here, with malloc and free underneath; GCC, seeing only one of them inlined, takes that for a
// mismatch.
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"

#if !defined(LONGHAUL_ADDRESS_SANITIZER) && !defined(LONGHAUL_THREAD_SANITIZER)
#define COUNT_MALLOC
// glibc's own, so that what its malloc gives can be freed by its free.
extern "C" {
void* __libc_malloc(std::size_t bytes);
void* __libc_calloc(std::size_t count, std::size_t bytes);
void* __libc_realloc(void* memory, std::size_t bytes);
void* __libc_memalign(std::size_t alignment, std::size_t bytes);
}
#endif

namespace {

// One entry for each place in the code that allocates. Fixed, since counting must not allocate.
struct Caller {
  std::atomic<std::uintptr_t> address{0};
  std::atomic<long> calls{0}, bytes{0};
};
std::array<Caller, 1 << 14> callers;
std::atomic<bool> counting{false};
std::atomic<long> news{0};

void record(void* address, std::size_t bytes) {
  if (!counting.load(std::memory_order_relaxed)) return;
  const auto key = reinterpret_cast<std::uintptr_t>(address);
  for (std::size_t i = key * 0x9e3779b97f4a7c15ull >> 50, tries = 0; tries < callers.size(); ++tries, ++i) {
    Caller& caller = callers[i % callers.size()];
    std::uintptr_t free = 0;
    if (!caller.address.compare_exchange_strong(free, key) && free != key) continue;
    caller.calls.fetch_add(1, std::memory_order_relaxed);
    caller.bytes.fetch_add(static_cast<long>(bytes), std::memory_order_relaxed);
    return;
  }
}

void* plain_malloc(std::size_t bytes) {
#ifdef COUNT_MALLOC
  return __libc_malloc(bytes ? bytes : 1);
#else
  return std::malloc(bytes ? bytes : 1);
#endif
}

void* new_or_null(void* caller, std::size_t bytes) noexcept {
  if (counting.load(std::memory_order_relaxed)) news.fetch_add(1, std::memory_order_relaxed);
  record(caller, bytes);
  return plain_malloc(bytes);
}

void* new_or_throw(void* caller, std::size_t bytes) {
  if (void* memory = new_or_null(caller, bytes)) return memory;
  throw std::bad_alloc();
}

}  // namespace

void* operator new(std::size_t bytes) {
  return new_or_throw(__builtin_return_address(0), bytes);
}
void* operator new[](std::size_t bytes) {
  return new_or_throw(__builtin_return_address(0), bytes);
}
// Catch and the standard library allocate without throwing too; what is freed by our delete must come from our new.
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
  return new_or_null(__builtin_return_address(0), bytes);
}
void* operator new[](std::size_t bytes, const std::nothrow_t&) noexcept {
  return new_or_null(__builtin_return_address(0), bytes);
}
void operator delete(void* memory) noexcept {
  std::free(memory);
}
void operator delete[](void* memory) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
  std::free(memory);
}
void operator delete[](void* memory, std::size_t) noexcept {
  std::free(memory);
}

#ifdef COUNT_MALLOC
extern "C" {
void* malloc(std::size_t bytes) {
  record(__builtin_return_address(0), bytes);
  return __libc_malloc(bytes);
}
void* calloc(std::size_t count, std::size_t bytes) {
  record(__builtin_return_address(0), count * bytes);
  return __libc_calloc(count, bytes);
}
void* realloc(void* memory, std::size_t bytes) {
  record(__builtin_return_address(0), bytes);
  return __libc_realloc(memory, bytes);
}
void* aligned_alloc(std::size_t alignment, std::size_t bytes) {
  record(__builtin_return_address(0), bytes);
  return __libc_memalign(alignment, bytes);
}
void* memalign(std::size_t alignment, std::size_t bytes) {
  record(__builtin_return_address(0), bytes);
  return __libc_memalign(alignment, bytes);
}
int posix_memalign(void** memory, std::size_t alignment, std::size_t bytes) {
  record(__builtin_return_address(0), bytes);
  *memory = __libc_memalign(alignment, bytes);
  return *memory ? 0 : 12;  // ENOMEM
}
}
#endif

namespace longhaul::testing {

void start_counting() {
  for (Caller& caller : callers) caller.calls = caller.bytes = 0;
  news = 0;
  counting = true;
}

void stop_counting() {
  counting = false;
}

long operator_new_calls() {
  return news;
}

std::vector<LibraryAllocations> counted_by_library() {
  std::map<std::string, LibraryAllocations> found;
  for (const Caller& caller : callers) {
    if (caller.calls == 0) continue;
    Dl_info info{};
    std::string name = "unknown";
    if (dladdr(reinterpret_cast<void*>(caller.address.load()), &info) && info.dli_fname) name = info.dli_fname;
    name = name.substr(name.rfind('/') + 1);
    name = name.substr(0, name.find(".so"));
    LibraryAllocations& library = found[name];
    library.library = name;
    library.calls += caller.calls;
    library.bytes += caller.bytes;
  }
  std::vector<LibraryAllocations> list;
  for (auto& [name, library] : found) list.push_back(library);
  std::sort(list.begin(), list.end(), [](const auto& a, const auto& b) { return a.bytes > b.bytes; });
  return list;
}

long heap_in_use() {
  const struct mallinfo2 info = mallinfo2();
  return static_cast<long>(info.uordblks + info.hblkhd);
}

long address_space() {
  std::ifstream file("/proc/self/statm");
  long pages = 0;
  file >> pages;
  return pages * sysconf(_SC_PAGESIZE);
}

}  // namespace longhaul::testing
