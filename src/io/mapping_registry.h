// Which addresses belong to which mapped file: what the handler of SIGBUS needs to know. Private to src/io.
#pragma once
#include <atomic>
#include <climits>
#include <cstddef>
#include <cstdint>
#include <string>

namespace longhaul {

struct MappingEntry {
  std::atomic<bool> used{false};
  std::atomic<const std::byte*> begin{nullptr};
  std::atomic<std::int64_t> size{0};
  char path[PATH_MAX] = {};
  MappingEntry* next = nullptr;
};

/// A list that only grows, its entries used again, so that a signal handler may walk it at any moment.
class MappingRegistry {
 public:
  /// May be called from several threads.
  static MappingEntry* add(const std::byte* begin, std::int64_t size, const std::string& path);
  static void remove(MappingEntry* entry) noexcept;
  /// nullptr when no mapping holds the address. Safe in a signal handler.
  static const MappingEntry* find(const void* address) noexcept;
};

}  // namespace longhaul
