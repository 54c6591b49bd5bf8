// Shared memory with its shadow, asynchronous copies, and the register of global buffers.
#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <mutex>
#include <shared_mutex>

#include "tests/gpu_emulator/emulator/core.h"

namespace longhaul::emulator {

void join(Clock& into, const Clock& from) {
  for (std::size_t i = 0; i < into.size(); i++) into[i] = std::max(into[i], from[i]);
}

namespace {
std::mutex site_lock;
std::vector<const char*> site_files;  // of all devices
}  // namespace
SiteId intern(Site site) {
  static thread_local constinit const char* last = nullptr;
  static thread_local constinit std::uint16_t last_id = 0;
  if (site.file_name() != last) {
    const std::lock_guard guard(site_lock);
    auto found = std::find_if(site_files.begin(), site_files.end(),
                              [&](const char* file) { return !std::strcmp(file, site.file_name()); });
    if (found == site_files.end()) found = site_files.insert(found, site.file_name());
    last = site.file_name();
    last_id = static_cast<std::uint16_t>(found - site_files.begin());
  }
  return {last_id, static_cast<std::uint16_t>(site.line())};
}
std::string name_of(SiteId site) {
  if (site.line == 0) return "?";
  const std::lock_guard guard(site_lock);
  std::string file = site_files[site.file];
  return file.substr(file.rfind('/') + 1) + ":" + std::to_string(site.line);
}

// ---- shared memory

char* shared_at(std::uint32_t address, int bytes, const char* what, Site site) {
  const std::size_t size = block->shared.size();
  if (address < kSharedBase || address + static_cast<std::uint32_t>(bytes) > kSharedBase + size)
    fail(site, "%s out of bounds: byte %d of %zu", what, static_cast<int>(address - kSharedBase), size);
  if (address % static_cast<std::uint32_t>(bytes))
    fail(site, "%s of %d bytes is misaligned at byte %d", what, bytes, static_cast<int>(address - kSharedBase));
  return block->shared.data() + (address - kSharedBase);
}

static void race(const char* kind, std::size_t word, Site site, int other, SiteId other_site) {
  fail(site, "RACE %s at shared byte %zu with %s %d at %s", kind, word * 4,
       other < block->threads ? "thread" : "async proxy", other < block->threads ? other : other - block->threads,
       name_of(other_site).c_str());
}

void check_read(std::uint32_t address, int bytes, int thread, Site site, const char* what) {
  if (!options.race) return;
  const Clock& clock = block->fibers[thread].clock;
  const std::uint32_t epoch = block->fibers[thread].epoch;
  const SiteId here = intern(in_kernel(site));
  const std::size_t first = (address - kSharedBase) / 4, last = (address - kSharedBase + bytes + 3) / 4;
  for (std::size_t i = first; i < last; i++) {
    SharedWord& word = block->shadow[i];
    if (word.pending)
      fail(site, "%s reads shared byte %zu under an unfinished copy begun at %s", what, i * 4,
           name_of(word.write_site).c_str());
    if (!word.initialised) fail(site, "%s reads uninitialised shared byte %zu", what, i * 4);
    if (word.write_epoch >= epoch && word.write_clock > clock[word.writer])
      race("read after write", i, site, word.writer, word.write_site);
    int kept = 0;
    for (int k = 0; k < word.reads; k++)
      if (word.read[k].epoch >= epoch && word.read[k].clock > clock[word.read[k].thread])
        word.read[kept++] = word.read[k];
    if (kept < 8) word.read[kept++] = {clock[thread], static_cast<std::uint16_t>(thread), here, epoch};
    word.reads = static_cast<std::uint8_t>(kept);
  }
}

void check_write(std::uint32_t address, int bytes, int thread, Site site, const char* what, bool asynchronous) {
  if (!options.race) return;
  const Clock& clock = block->fibers[thread].clock;
  const std::uint32_t epoch = block->fibers[thread].epoch;
  const SiteId here = intern(in_kernel(site));
  const std::size_t first = (address - kSharedBase) / 4, last = (address - kSharedBase + bytes + 3) / 4;
  for (std::size_t i = first; i < last; i++) {
    SharedWord& word = block->shadow[i];
    if (word.pending)
      fail(site, "%s writes shared byte %zu under an unfinished copy begun at %s", what, i * 4,
           name_of(word.write_site).c_str());
    if (word.initialised && word.write_epoch >= epoch && word.write_clock > clock[word.writer])
      race("write after write", i, site, word.writer, word.write_site);
    for (int k = 0; k < word.reads; k++)
      if (word.read[k].epoch >= epoch && word.read[k].clock > clock[word.read[k].thread])
        race("write after read", i, site, word.read[k].thread, word.read[k].site);
    word.reads = 0, word.initialised = 1, word.pending = asynchronous;
    word.writer = static_cast<std::uint16_t>(thread), word.write_clock = clock[thread], word.write_site = here;
    word.write_epoch = epoch;
  }
}

void check_async_read(std::uint32_t address, int bytes, int thread, Site site, const char* what) {
  shared_at(address, 16, what, site);
  check_read(address, bytes, thread, site, what);
  if (!options.race) return;
  for (std::size_t i = (address - kSharedBase) / 4; i < (address - kSharedBase + bytes) / 4; i++) {
    const SharedWord& word = block->shadow[i];
    if (word.writer < block->threads && word.write_clock >= block->fibers[word.writer].proxy_fence)
      fail(site, "%s reads shared byte %zu, written by thread %d at %s without fence.proxy.async", what, i * 4,
           word.writer, name_of(word.write_site).c_str());
  }
}

// ---- asynchronous copies

void complete_phase(MemoryBarrier& barrier) {
  if (barrier.pending || barrier.bytes) return;
  barrier.done = barrier.arriving;
  barrier.pending = barrier.count;
  barrier.generation++;
}

void start_copy(std::uint32_t destination, std::vector<char> data, MemoryBarrier* barrier, Site site) {
  check_write(destination, static_cast<int>(data.size()), block->current, site, "asynchronous copy", true);
  // Nobody may count on the old contents either.
  if (options.seed) std::memset(block->shared.data() + (destination - kSharedBase), 0xff, data.size());
  statistics.copies++, statistics.copied_bytes += static_cast<long>(data.size());
  block->copies.push_back({destination, std::move(data), false, barrier});
  block->copies_in_flight++;
  if (!barrier) self().open_copies.push_back(static_cast<int>(block->copies.size()) - 1);
}

void land(int index) {
  Copy& copy = block->copies[index];
  if (copy.landed) return;
  std::memcpy(block->shared.data() + (copy.destination - kSharedBase), copy.data.data(), copy.data.size());
  copy.landed = true;
  block->copies_in_flight--;
  if (!copy.barrier) return;
  // Bulk copies belong to the async proxy and are published by their mbarrier.
  MemoryBarrier& barrier = *copy.barrier;
  const int proxy = block->threads + barrier.proxy;
  barrier.arriving[proxy]++;
  if (options.race)
    for (std::size_t i = (copy.destination - kSharedBase) / 4;
         i < (copy.destination - kSharedBase + copy.data.size()) / 4; i++) {
      SharedWord& word = block->shadow[i];
      word.pending = 0, word.writer = static_cast<std::uint16_t>(proxy), word.write_clock = barrier.arriving[proxy];
      word.write_epoch = 0xffffffffu;
    }
  barrier.bytes -= static_cast<int>(copy.data.size());
  copy.data = {};
  complete_phase(barrier);
}

bool land_some(bool all) {
  if (!block->copies_in_flight) return false;
  bool any = false;
  for (std::size_t i = 0; i < block->copies.size(); i++)
    if (!block->copies[i].landed && (all || block->random() % 4 == 0)) land(static_cast<int>(i)), any = true;
  return any;
}

void wait_copies(int newest_left) {
  Fiber& fiber = self();
  while (static_cast<int>(fiber.copy_groups.size()) > newest_left) {
    for (const int index : fiber.copy_groups.front()) {
      land(index);
      const std::uint32_t destination = block->copies[index].destination;
      if (options.race)
        for (std::size_t i = (destination - kSharedBase) / 4; i < (destination - kSharedBase + 16) / 4; i++)
          block->shadow[i].pending = 0, block->shadow[i].write_clock = fiber.clock[fiber.id],
          block->shadow[i].write_epoch = fiber.epoch;
    }
    fiber.copy_groups.erase(fiber.copy_groups.begin());
  }
}

// ---- global memory

namespace {
struct Range {
  const char *begin, *end;
};
// Of all devices: a rank's kernels may write what another's device holds.
std::shared_mutex ranges_lock;
std::vector<Range> ranges;           // sorted by begin
std::atomic<unsigned> removals = 0;  // what threads remember is stale after one
struct Recent {
  std::array<Range, 4> range;
  unsigned next, removals;
};
thread_local constinit Recent recent{};

bool find_range(const char* p, std::size_t bytes, Range& range) {
  const std::shared_lock guard(ranges_lock);
  const auto after =
      std::upper_bound(ranges.begin(), ranges.end(), p, [](const char* a, const Range& b) { return a < b.begin; });
  if (after == ranges.begin() || p + bytes > std::prev(after)->end) return false;
  range = *std::prev(after);
  return true;
}
}  // namespace

void register_global(void* begin, std::size_t bytes) {
  const Range range{static_cast<const char*>(begin), static_cast<const char*>(begin) + bytes};
  const std::unique_lock guard(ranges_lock);
  ranges.insert(std::upper_bound(ranges.begin(), ranges.end(), range,
                                 [](const Range& a, const Range& b) { return a.begin < b.begin; }),
                range);
}
void unregister_global(void* begin) {
  const std::unique_lock guard(ranges_lock);
  removals++;
  ranges.erase(std::find_if(ranges.begin(), ranges.end(), [&](const Range& range) { return range.begin == begin; }));
}
bool is_global(const void* pointer, std::size_t bytes) {
  Range range;
  return find_range(static_cast<const char*>(pointer), bytes, range);
}
void check_global(const void* pointer, std::size_t bytes, const char* what, Site site) {
  const char* p = static_cast<const char*>(pointer);
  const unsigned now = removals.load(std::memory_order_relaxed);
  if (recent.removals != now) recent = {{}, 0, now};
  bool known = false;
  for (const Range& range : recent.range) known = known || (p >= range.begin && p + bytes <= range.end);
  if (!known) {
    Range range;
    if (!find_range(p, bytes, range)) fail(site, "%s of %zu bytes outside every registered buffer", what, bytes);
    recent.range[recent.next++ % recent.range.size()] = range;
  }
  if (reinterpret_cast<std::uintptr_t>(p) % bytes) fail(site, "%s of %zu bytes is misaligned", what, bytes);
}

}  // namespace longhaul::emulator
