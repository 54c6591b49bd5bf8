// What plan_memory decides: where every value lives. Offsets count from the start of a rank's arena: one on the device,
// which begins with the named buffers, and one in host memory, for values of that space.
#pragma once
#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "ir/graph.h"

namespace longhaul {

enum class MemoryCategory : std::uint8_t {
  parameters,
  gradients,
  optimizer,
  data,
  saved_activations,
  transients,
  communication,
  scratch
};
inline constexpr int memory_categories = 8;
std::string_view name_of(MemoryCategory category);

/// Every buffer begins at a multiple of so many bytes: a cache line, and what the kernels' scratch asks for.
inline constexpr std::int64_t buffer_alignment = 64;

/// Buffers with a name, at one place for all programs of a run: state, data, and what programs report.
struct NamedBuffers {
  struct Slot {
    std::int64_t offset = 0;
    std::int64_t bytes = 0;
    MemoryCategory category = MemoryCategory::data;
    std::optional<StateKey> state = {};  // of state: what it is (Binding::state)
  };
  std::map<std::string, Slot, std::less<>> slots;
  std::int64_t bytes = 0;
};

/// How much of one arena a program takes.
struct ArenaPlan {
  std::int64_t transient_bytes = 0;  // above the named buffers
  /// At the op where most transient bytes are live: what they are, and that op.
  std::array<std::int64_t, memory_categories> peak_by_category{};
  std::int32_t peak_op = -1;
  std::int64_t peak_live_bytes = 0;  // transient_bytes is this plus fragmentation
  std::vector<std::array<std::int64_t, memory_categories>> live_by_op = {};  // transient bytes, at each op
};

/// One program's buffers; as an ArenaPlan, what they take on the device.
struct MemoryPlan : ArenaPlan {
  ArenaPlan host;
  std::vector<std::int64_t> value_offset;    // by value id, in the arena of its space; -1: never stored
  std::vector<std::int64_t> scratch_offset;  // by op
  std::vector<std::int64_t> scratch_bytes;   // by op
  /// Results that could not be made in place: copied to their named buffer after the last op.
  struct Copy {
    std::int64_t from, to, bytes;
  };
  std::vector<Copy> final_copies;
};

/// Scratch bytes that an op needs on a rank.
using ScratchBytes = std::function<std::int64_t(const Graph&, const Op&)>;

}  // namespace longhaul
