#include "runtime/cpu/arena.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace longhaul {

Arena::Arena(std::size_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED)
    fail("cannot map {} bytes for the tensors of this rank: {}. `longhaul compile` prints what needs them.", bytes,
         std::strerror(errno));
  data_ = static_cast<char*>(memory);
  madvise(memory, bytes, MADV_HUGEPAGE);  // advice only: without it everything still works
  for (std::size_t at = 0; at < bytes; at += 4096) data_[at] = 0;
}

Arena::~Arena() {
  if (data_) munmap(data_, bytes_);
}

}  // namespace longhaul
