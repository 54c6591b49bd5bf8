// A memory timeline as a picture.
#pragma once
#include <cstdint>
#include <string>

#include "compile/memory_timeline.h"

namespace longhaul {

/// SVG, 1200 x 560: live bytes over the instructions of a step, stacked by category; the peak and what is live there,
/// the arena, and `limit` (bytes; 0: none) as lines. Of many instructions that share a column the fullest is drawn.
/// `title` may hold any characters.
std::string timeline_svg(const MemoryTimeline& timeline, const std::string& title, std::int64_t limit);

}  // namespace longhaul
