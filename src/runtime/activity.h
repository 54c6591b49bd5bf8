// Where a rank is in its programs: written by the rank's own thread in every instruction, read by its watchdog at any
// time.
#pragma once
#include <atomic>
#include <cstdint>
#include <string_view>
#include <vector>

namespace longhaul {

struct Activity {
  struct Place {
    std::string_view program, op;
    std::int64_t instruction = 0;  ///< in the program, from 0
    std::vector<int> ranks;        ///< of the world, that take part; only the own one: nothing is sent
  };
  std::atomic<const Place*> place{nullptr};  ///< null: between programs
  std::atomic<std::uint64_t> moves{0};       ///< how often `place` was set

  /// By the rank's thread alone.
  void enter(const Place* where) {
    place.store(where, std::memory_order_relaxed);
    moves.store(moves.load(std::memory_order_relaxed) + 1, std::memory_order_release);
  }
};

}  // namespace longhaul
