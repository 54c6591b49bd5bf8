// One block of memory for a rank, asked of the system once.
#pragma once
#include <cstddef>

namespace longhaul {

class Arena {
 public:
  /// Maps zeroed memory, huge pages advised (first touch by 4 KB pages is slow), and touches it. Throws Error when the
  /// system refuses.
  explicit Arena(std::size_t bytes);
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  char* data() { return data_; }
  const char* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }

 private:
  char* data_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace longhaul
