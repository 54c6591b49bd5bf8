// Waves of 64 lanes in lock step, as AMD's CDNA runs them: one program counter for all, no independent scheduling.
// Kernels think in warps of 32; two of those are the halves of a wave.
//
// Every lane runs to its next primitive and stops before it. When all have stopped, the wave goes on with those lanes
// that are at one place, as one instruction; the others are not active. Where lanes are at different places, the
// earlier in the program comes first, so that the arms of a branch follow each other and a loop goes on until its last
// lane is out: lines tell the order within a file, and how often a lane has gone back to an earlier one. Nobody knows
// it across files, so loads and stores come before what active lanes do together (shuffles, votes) unless that has all
// lanes of a warp: lanes meet again as early as a compiler may let them.
//
// So a lane that loops until another lane of its wave has done something holds the wave for ever, a shuffle from a lane
// that is elsewhere gives no value, and a barrier in both arms of a branch would count the wave twice.
#include <algorithm>
#include <bit>
#include <cstring>

#include "tests/gpu_emulator/emulator/core.h"

namespace longhaul::emulator {
namespace {

constexpr int kLanes = 64;

// Where in the source a lane is, as the kernel sees it: what a primitive is made of is no place of its own.
const Site& place(const Fiber& fiber) {
  return fiber.composed ? fiber.caller : fiber.site;
}
bool same_file(const Site& a, const Site& b) {
  return a.file_name() == b.file_name() || !std::strcmp(a.file_name(), b.file_name());
}
bool same(const Site& a, const Site& b) {
  return a.line() == b.line() && a.column() == b.column() && same_file(a, b);
}
bool together(const Fiber& a, const Fiber& b) {
  return a.stop == b.stop && same(a.site, b.site) && a.composed == b.composed &&
         (!a.composed || (a.part == b.part && same(a.caller, b.caller)));
}
// Of lanes in one file.
bool earlier(const Fiber& a, const Fiber& b) {
  const Site &at = place(a), &other = place(b);
  if (a.loops != b.loops) return a.loops < b.loops;
  if (at.line() != other.line()) return at.line() < other.line();
  if (at.column() != other.column() || !a.composed || !b.composed) return at.column() < other.column();
  return a.part != b.part ? a.part < b.part : a.site.line() < b.site.line();
}

struct Lanes {  // of a wave that exist
  Block& block;
  int first, count;
  Lanes(Block& of, int wave) : block(of), first(wave * kLanes), count(std::min(kLanes, of.threads - first)) {}
  Fiber& operator[](int lane) const { return block.fibers[first + lane]; }
};

bool held(const Fiber& fiber) {  // by a barrier
  return fiber.generation && *fiber.generation == fiber.awaited;
}

struct Group {  // lanes at one place
  std::uint64_t lanes;
  const Fiber* leader;
  bool whole;  // every lane of each of its warps is in it, or has ended
};
// What comes first where lines do not say it.
int rank(const Group& group) {
  switch (group.leader->stop) {
    case Stop::exchange:
    case Stop::sync:
      return group.whole ? 1 : 2;
    case Stop::spin:
      return 3;
    case Stop::barrier:
      return 4;
    default:
      return 0;
  }
}
// Whether the wave goes on with a before b.
bool before(const Group& a, const Group& b) {
  const int one = rank(a), other = rank(b);
  // Loads and stores come before all but a loop, exchanges of whole warps before other exchanges and barriers.
  const bool settled = one != other && std::min(one, other) < 2 && std::max(one, other) != 3;
  if (settled || !same_file(place(*a.leader), place(*b.leader))) return one < other;
  return earlier(*a.leader, *b.leader);
}

// The lanes that a wave whose lanes have all stopped goes on with; none when it has ended.
std::uint64_t choose(const Lanes& lanes) {
  std::uint64_t left = 0;
  for (int i = 0; i < lanes.count; i++)
    if (!lanes[i].done) left |= std::uint64_t{1} << i;
  const std::uint64_t live = left;
  Group chosen{0, nullptr, false};
  while (left) {
    Group group{0, &lanes[std::countr_zero(left)], true};
    for (std::uint64_t rest = left; rest; rest &= rest - 1) {
      const int lane = std::countr_zero(rest);
      if (together(*group.leader, lanes[lane])) group.lanes |= std::uint64_t{1} << lane;
    }
    if (group.lanes == live) return live;
    left &= ~group.lanes;
    for (const std::uint64_t warp : {0xffffffffull, 0xffffffffull << 32})
      if (group.lanes & warp && (group.lanes & warp) != (live & warp)) group.whole = false;
    if (!chosen.lanes || before(group, chosen)) chosen = group;
  }
  return chosen.lanes;
}

bool all_ready(const Lanes& lanes, std::uint64_t group) {
  for (; group; group &= group - 1)
    if (!lanes[std::countr_zero(group)].ready()) return false;
  return true;
}

}  // namespace

void stop_at(Stop stop, Site site) {
  Fiber& fiber = self();
  if (stop != Stop::spin) fiber.reason = "a wave that waits";
  const Site last = fiber.last_place;
  const bool begun = fiber.composed && fiber.begun;  // at the same place as before
  fiber.stop = stop, fiber.site = site, fiber.last_place = place(fiber), fiber.begun = true;
  const Site& now = fiber.last_place;
  const bool back = now.line() != last.line() ? now.line() < last.line() : now.column() <= last.column();
  if (back && !begun && same_file(last, now)) fiber.loops++;
  yield();
}

void offer(const void* value, std::size_t bytes, Site site) {
  Fiber& fiber = self();
  fiber.offer ^= 1;
  fiber.part++;
  std::memcpy(fiber.offered[fiber.offer], value, bytes);
  stop_at(Stop::exchange, site);
}
const char* offered_by(int source, const char* what, Site site) {
  const Wave& mine = wave();
  if (mine.active >> source & 1) return mine.offered[source];
  const int thread = block->current / kLanes * kLanes + source;
  if (thread >= block->threads || block->fibers[thread].done)
    fail(site, "%s from lane %d of the wave, which has ended: no value", what, source);
  fail(site, "%s from lane %d of the wave, which is not active but at %s: no value", what, source,
       name_of(intern(place(block->fibers[thread]))).c_str());
}

std::uint64_t votes_of_wave() {
  const Wave& mine = wave();
  std::uint64_t votes = 0;
  for (std::uint64_t rest = mine.active; rest; rest &= rest - 1) {
    const int lane = std::countr_zero(rest);
    bool vote;
    std::memcpy(&vote, mine.offered[lane], sizeof vote);
    votes |= std::uint64_t{vote} << lane;
  }
  return votes;
}

void join_active_lanes() {
  Fiber& fiber = self();
  if (options.race) join(fiber.clock, wave().joined[fiber.id / 32 % 2]);
  fiber.clock[fiber.id]++;
}

bool wave_step(int index, int first_lane) {
  Block& b = *block;
  const Lanes lanes(b, index);
  bool any = false, waits = false;
  for (int i = 0; i < lanes.count; i++) {
    Fiber& fiber = lanes[(i + first_lane) % lanes.count];
    if (fiber.done || fiber.stop != Stop::none) continue;
    if (held(fiber)) {
      waits = true;
      continue;
    }
    any = true;
    resume(fiber);
    if (!b.fault.empty()) return true;
    waits = waits || held(fiber);
  }
  if (any || waits) return any;
  const std::uint64_t group = choose(lanes);
  if (!group) return false;
  const Fiber& leader = lanes[std::countr_zero(group)];
  if (leader.stop == Stop::spin && !all_ready(lanes, group)) return false;
  if (leader.stop == Stop::barrier)
    for (int i = 0; i < lanes.count; i++)
      if (!lanes[i].done && !(group >> i & 1)) {
        b.current = leader.id;
        report(leader.site,
               "a barrier of the block reached by part of a wave, thread %d of which is at %s: it would "
               "count for all 64 lanes",
               lanes[i].id, name_of(intern(place(lanes[i]))).c_str());
        return true;
      }
  Wave& wave = b.waves[index];
  wave.active = group;
  int loops = 0;
  for (std::uint64_t rest = group; rest; rest &= rest - 1) loops = std::max(loops, lanes[std::countr_zero(rest)].loops);
  for (std::uint64_t rest = group; rest; rest &= rest - 1) lanes[std::countr_zero(rest)].loops = loops;
  if (leader.stop == Stop::exchange)
    for (std::uint64_t rest = group; rest; rest &= rest - 1) {
      const Fiber& lane = lanes[std::countr_zero(rest)];
      wave.offered[std::countr_zero(rest)] = lane.offered[lane.offer];
    }
  if (leader.stop == Stop::sync && options.race) {
    for (Clock& joined : wave.joined) joined.assign(leader.clock.size(), 0);
    for (std::uint64_t rest = group; rest; rest &= rest - 1)
      join(wave.joined[std::countr_zero(rest) / 32], lanes[std::countr_zero(rest)].clock);
  }
  for (int i = 0; i < lanes.count; i++) {
    const int lane = (i + first_lane) % lanes.count;
    if (!(group >> lane & 1)) continue;
    lanes[lane].stop = Stop::none;
    resume(lanes[lane]);
    if (!b.fault.empty()) return true;
  }
  return true;
}

bool wave_signalled(const Block& of) {
  Block& b = const_cast<Block&>(of);
  for (int i = 0; i < static_cast<int>(b.waves.size()); i++) {
    const Lanes lanes(b, i);
    bool stopped = true;
    for (int lane = 0; lane < lanes.count; lane++)
      stopped = stopped && (lanes[lane].done || lanes[lane].stop != Stop::none);
    const std::uint64_t group = stopped ? choose(lanes) : 0;
    if (group && lanes[std::countr_zero(group)].outside && all_ready(lanes, group)) return true;
  }
  return false;
}

}  // namespace longhaul::emulator
