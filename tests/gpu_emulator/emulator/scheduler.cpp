// Blocks, launches and streams, and the order in which they go on.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "tests/gpu_emulator/emulator/core.h"
#include "tests/gpu_emulator/emulator/fiber_switch.h"

asm(R"(.text
.globl longhaul_emulator_switch
.hidden longhaul_emulator_switch
longhaul_emulator_switch:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp,(%rdi)
  mov %rsi,%rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
)");

namespace longhaul::emulator {
namespace {

constexpr std::size_t kStackBytes = 128 << 10;
thread_local std::vector<std::unique_ptr<char[]>> all_stacks;
thread_local std::vector<char*> free_stacks;

char* take_stack() {
  if (free_stacks.empty()) {
    all_stacks.emplace_back(new char[kStackBytes]);
    return all_stacks.back().get();
  }
  char* stack = free_stacks.back();
  free_stacks.pop_back();
  return stack;
}
void give_stacks_back(Block& done) {
  free_stacks.insert(free_stacks.end(), done.stacks.begin(), done.stacks.end());
  done.stacks.clear();
}

// Blocks that are done, for later ones: most of what a small kernel takes would else be memory that comes and goes.
thread_local std::vector<std::unique_ptr<Block>> free_blocks;
std::unique_ptr<Block> take_block() {
  if (free_blocks.empty()) return std::make_unique<Block>();
  std::unique_ptr<Block> block = std::move(free_blocks.back());
  free_blocks.pop_back();
  return block;
}
// As new, but for the memory of its vectors.
void renew(Fiber& fiber, int id, std::size_t clock) {
  fiber.id = id, fiber.done = false, fiber.epoch = 0;
  fiber.generation = nullptr, fiber.awaited = 0, fiber.ready = nullptr, fiber.outside = false, fiber.reason = "";
  fiber.stop = Stop::none, fiber.composed = false, fiber.last_place = {}, fiber.loops = 0;
  fiber.clock.assign(clock, 0);
  fiber.clock[static_cast<std::size_t>(id)] = 1;
  fiber.proxy_fence = 0;
  fiber.copy_groups.clear(), fiber.open_copies.clear(), fiber.bulk_stores.clear();
}
void renew(std::vector<Barrier>& barriers, std::size_t count) {
  barriers.resize(count);
  for (Barrier& barrier : barriers) barrier.count = barrier.expected = 0, barrier.generation = 0;
}

void fiber_main() {
  (*block->body)();
  self().done = true;
  yield();
  std::abort();
}

bool blocked(const Fiber& fiber) {
  return fiber.done || (fiber.generation && *fiber.generation == fiber.awaited) || (fiber.ready && !fiber.ready());
}

std::string deadlock() {
  char text[256];
  std::snprintf(text, sizeof text, "DEADLOCK in block (%u,%u,%u)", block->index.x, block->index.y, block->index.z);
  std::string report = text;
  if (block->stream) report += " of stream " + std::to_string(block->stream);
  report += ":";
  for (int i = 0; i < block->threads;) {
    const Fiber& first = block->fibers[i];
    int end = i;
    while (end < block->threads && block->fibers[end].done == first.done && block->fibers[end].reason == first.reason &&
           block->fibers[end].site.line() == first.site.line())
      end++;
    if (!first.done) {
      std::snprintf(text, sizeof text, " threads %d-%d in %s at %s;", i, end - 1, first.reason,
                    name_of(intern(first.site)).c_str());
      report += text;
    }
    i = end;
  }
  return report;
}

void start(Block& b, dim3 index, const Launch& work, int stream) {
  const int threads = work.threads;
  b.index = index, b.grid = work.grid, b.threads = b.left = threads, b.stream = stream, b.body = &work.body;
  b.random.seed(options.seed + index.x * 7919 + index.y * 104729 + index.z * 1299709 + stream * 15485863);
  b.shared.assign((work.shared_bytes + 15) / 16 * 16, static_cast<char>(0xff));
  b.shadow.assign(b.shared.size() / 4, SharedWord());
  renew(b.barriers, 16);
  renew(b.warp_barriers, static_cast<std::size_t>(threads / 32));
  b.warps.assign(threads / 32, WarpCollective());
  for (WarpCollective& warp : b.warps) warp.registers = std::min(255, kRegisterFile / threads / 8 * 8);
  b.warp_groups.clear();
  b.warp_groups.resize((threads + 127) / 128);
  b.memory_barriers.clear(), b.copies.clear();
  b.copies_in_flight = 0, b.free_registers = 0, b.current = 0, b.warp = 0;
  b.lock_step = options.wave == 64;
  b.waves.resize(b.lock_step ? (threads + 63) / 64 : 0);
  if (b.fibers.size() < static_cast<std::size_t>(threads)) b.fibers.resize(threads);
  for (int i = 0; i < threads; i++) {
    Fiber& fiber = b.fibers[i];
    renew(fiber, i, static_cast<std::size_t>(threads + kAsyncProxies));
    b.stacks.push_back(take_stack());
    void** top =
        reinterpret_cast<void**>(reinterpret_cast<std::uintptr_t>(b.stacks.back() + kStackBytes) & ~std::uintptr_t{15});
    *--top = nullptr;  // the return address of fiber_main, never used
    *--top = reinterpret_cast<void*>(fiber_main);
    for (int k = 0; k < 6; k++) *--top = nullptr;
    fiber.stack_pointer = top;
  }
}

enum class Step { running, done, stuck };
// Runs warps of the block for a number of turns; a turn lets each lane of one warp go on until it blocks or meets, or a
// wave do one thing.
Step step(Block& b, int turns) {
  block = &b;
  const int lanes = b.lock_step ? 64 : 32, warps = (b.threads + lanes - 1) / lanes;
  auto runnable = [&](int warp) {
    for (int i = warp * 32; i < warp * 32 + 32; i++)
      if (!blocked(b.fibers[i])) return true;
    return false;
  };
  while (b.left && turns-- > 0) {
    if (!options.seed) {
      b.warp = (b.warp + 1) % warps;
      land_some(true);
    } else {
      if (b.random() % 8 == 0) b.warp = static_cast<int>(b.random() % warps);
      if (b.copies_in_flight && b.random() % 64 == 0) land_some(false);
    }
    const int first = options.seed ? static_cast<int>(b.random() % lanes) : 0;
    int tried = 0;
    while (tried < warps && !(b.lock_step ? wave_step(b.warp, first) : runnable(b.warp)))
      b.warp = (b.warp + 1) % warps, tried++;
    if (tried == warps) {
      if (land_some(true)) continue;
      return Step::stuck;
    }
    for (int i = 0; i < 32 && !b.lock_step; i++) {
      Fiber& fiber = b.fibers[b.warp * 32 + ((i + first) & 31)];
      if (blocked(fiber)) continue;
      resume(fiber);
      if (!b.fault.empty()) return Step::done;
    }
    if (!b.fault.empty()) return Step::done;
  }
  if (b.left) return Step::running;
  for (const Barrier& barrier : b.barriers)
    if (barrier.count) b.fault = "a named barrier is left half full";
  for (const WarpGroup& group : b.warp_groups)
    if (!group.open.empty() || !group.groups.empty()) b.fault = "a warpgroup exits with wgmma under way";
  for (const Fiber& fiber : b.fibers)
    if (!fiber.bulk_stores.empty()) b.fault = "a thread exits with bulk stores not waited for";
  if (b.copies_in_flight) b.fault = "the block exits with copies under way";
  return Step::done;
}

// One launch under way: up to `resident` of its blocks take turns.
struct Grid {
  const Launch* work;
  int stream;
  long total, begun = 0, done = 0;
  std::vector<std::unique_ptr<Block>> slots;
  std::size_t turn = 0;

  Grid(const Launch& launch, int stream_number)
      : work(&launch), stream(stream_number), total(static_cast<long>(launch.grid.x) * launch.grid.y * launch.grid.z) {
    slots.resize(std::min<long>(std::max(1, options.resident), total));
  }
  // Lets one block go on. `stuck` receives the report of a block that cannot.
  bool advance(std::mt19937& random, bool alone, std::string& stuck) {
    for (auto& slot : slots)
      if (!slot && begun < total) {
        const long n = options.reverse ? total - 1 - begun : begun;
        slot = take_block();
        start(*slot, dim3(n % work->grid.x, n / work->grid.x % work->grid.y, n / work->grid.x / work->grid.y), *work,
              stream);
        begun++;
      }
    turn = options.seed ? random() % slots.size() : (turn + 1) % slots.size();
    while (!slots[turn]) turn = (turn + 1) % slots.size();
    Block& b = *slots[turn];
    const Step result = step(b, alone && slots.size() == 1 ? 1 << 30 : 1 + static_cast<int>(random() % 500));
    std::string fault = b.fault;
    if (result == Step::stuck) stuck = deadlock();
    block = nullptr;
    if (!fault.empty()) throw Fault(fault);
    if (result == Step::done) {
      give_stacks_back(b);
      if (free_blocks.size() < 8) free_blocks.push_back(std::move(slots[turn]));
      slots[turn].reset();
      done++;
    }
    return result != Step::stuck;
  }
  /// Whether a thread that another device could set going is there, and whether one can go on.
  bool waits_outside() const {
    return std::any_of(slots.begin(), slots.end(), [](const auto& slot) {
      return slot && std::any_of(slot->fibers.begin(), slot->fibers.end(),
                                 [](const Fiber& fiber) { return fiber.ready && fiber.outside; });
    });
  }
  bool signalled() const {
    return std::any_of(slots.begin(), slots.end(), [](const auto& slot) {
      if (slot && slot->lock_step) return wave_signalled(*slot);
      return slot && std::any_of(slot->fibers.begin(), slot->fibers.end(),
                                 [](const Fiber& fiber) { return fiber.ready && fiber.outside && fiber.ready(); });
    });
  }
  ~Grid() {
    for (auto& slot : slots)
      if (slot) give_stacks_back(*slot);
  }
};

}  // namespace

void resume(Fiber& fiber) {
  block->current = fiber.id;
  longhaul_emulator_switch(&block->scheduler, fiber.stack_pointer);
  if (fiber.done) block->left--;
}

thread_local constinit int host_stream_number = 0;

// The queues of all streams, run together; a queue's launches follow each other.
struct Run {
  explicit Run(std::vector<std::pair<int, std::vector<Launch>>> all)
      : queues(std::move(all)), active(queues.size()), next(queues.size(), 0) {}

  // Goes on until all is done (true) or, unless it is patient, until only another rank can set something going.
  bool advance(bool patient) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(options.patience_ms);
    const auto pause = [&](const std::string& report) {
      if (std::chrono::steady_clock::now() > deadline) throw Fault(report);
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    };
    for (;;) {
      std::size_t live = 0, blocks = 0;
      bool held = false;  // the host's work in a queue waits for another rank
      for (std::size_t i = 0; i < queues.size(); i++) {
        std::vector<Launch>& queue = queues[i].second;
        while (!active[i] && next[i] < queue.size() && queue[next[i]].host) {
          if (queue[next[i]].ready && !queue[next[i]].ready()) break;
          host_stream_number = queues[i].first;
          queue[next[i]++].body();
        }
        if (!active[i] && next[i] < queue.size()) {
          if (queue[next[i]].host) {
            held = true;
            continue;
          }
          active[i] = std::make_unique<Grid>(queue[next[i]++], queues[i].first);
          if (active[i]->total == 0) throw Fault("a launch without blocks");
        }
        if (active[i]) live++, blocks += active[i]->slots.size();
      }
      if (!live) {
        if (!held) return true;
        if (!patient) return false;
        pause("DEADLOCK: a stream waits for another rank, which does not come");
        continue;
      }
      turn = options.seed ? random() % queues.size() : (turn + 1) % queues.size();
      while (!active[turn]) turn = (turn + 1) % queues.size();
      if (active[turn]->advance(random, live == 1, stuck))
        stuck_count = 0;
      else if (++stuck_count > 20 * static_cast<int>(blocks) || blocks == 1) {
        stuck_count = 0;
        if (!any(&Grid::signalled)) {
          const bool waits = any(&Grid::waits_outside);
          if (!waits && !held) throw Fault(stuck);
          if (!patient) return false;
          if (held)
            pause(stuck);
          else if (!wait_for_devices([&] { return any(&Grid::signalled); }))
            throw Fault(stuck);
        }
      }
      if (active[turn]->done == active[turn]->total) active[turn].reset();
    }
  }
  bool any(bool (Grid::*what)() const) const {
    return std::any_of(active.begin(), active.end(), [&](const auto& grid) { return grid && (grid.get()->*what)(); });
  }

  std::vector<std::pair<int, std::vector<Launch>>> queues;
  std::vector<std::unique_ptr<Grid>> active;
  std::vector<std::size_t> next;
  std::mt19937 random{options.seed};
  std::string stuck;
  int stuck_count = 0;
  std::size_t turn = 0;
};

void begin_stream_clocks(int count);  // global_clocks.cpp

namespace {

bool run_queues(bool patient) {
  Device& here = device();
  const std::lock_guard guard(here.lock);
  for (;;) {
    if (!here.run) {
      std::vector<std::pair<int, std::vector<Launch>>> queues;
      for (std::size_t i = 0; i < here.streams.size(); i++)
        if (here.streams[i] && !here.streams[i]->queue.empty())
          queues.emplace_back(static_cast<int>(i) + 1, std::move(here.streams[i]->queue)),
              here.streams[i]->queue.clear();
      if (queues.empty()) return true;
      begin_stream_clocks(queues.size() > 1 ? static_cast<int>(here.streams.size()) + 1 : 0);
      here.run = std::make_shared<Run>(std::move(queues));
    }
    const std::shared_ptr<Run> run = here.run;
    try {
      if (!run->advance(patient)) return false;
    } catch (...) {
      here.run.reset();
      throw;
    }
    here.run.reset();
  }
}

void queue(Stream* stream, Launch work) {
  if (captures(stream) && keep(stream, [=](const Replay&) { return work; })) return;
  Device& here = device();
  const std::lock_guard guard(here.lock);
  if (stream && stream->device != &here) throw Fault("a stream of another device than the one that is selected");
  if (stream) {
    stream->queue.push_back(std::move(work));
    return;
  }
  run_queues(true);
  begin_stream_clocks(0);
  std::vector<std::pair<int, std::vector<Launch>>> queues(1);
  queues[0].second.push_back(std::move(work));
  Run(std::move(queues)).advance(true);
}

}  // namespace

void synchronize() {
  run_queues(true);
}
bool go_on() {
  return run_queues(false);
}
void launch(Stream* stream, Launch work) {
  if (options.wave != 32 && options.wave != 64)
    throw Fault("waves of " + std::to_string(options.wave) + " lanes: the emulator has those of 32 and of 64");
  if (work.threads <= 0 || work.threads % 32 || work.threads > 1024)
    throw Fault("a block of " + std::to_string(work.threads) + " threads: the emulator runs whole warps, at most 1024");
  if (work.shared_bytes > static_cast<std::size_t>(options.shared_kb) << 10)
    throw Fault("a block with " + std::to_string(work.shared_bytes) + " bytes of shared memory: this device has " +
                std::to_string(options.shared_kb << 10));
  queue(stream, std::move(work));
}
void enqueue_made(Stream* stream, const std::function<Launch()>& make) {
  if (!keep(stream, [make](const Replay&) { return make(); })) queue(stream, make());
}
void enqueue(Stream* stream, std::function<void()> work, std::function<bool()> ready) {
  queue(stream, {dim3(), 0, 0, std::move(work), true, std::move(ready)});
}
int host_stream() {
  return host_stream_number;
}
Stream* create_stream() {
  Device& here = device();
  const std::lock_guard guard(here.lock);
  auto made = std::make_unique<Stream>();
  made->device = &here;
  for (auto& slot : here.streams)
    if (!slot) return (slot = std::move(made)).get();
  return here.streams.emplace_back(std::move(made)).get();
}
void destroy_stream(Stream* stream) {
  if (!stream) return;
  Device& owner = *stream->device;
  const std::lock_guard guard(owner.lock);
  for (auto& slot : owner.streams)
    if (slot.get() == stream) slot.reset();
}
void discard_queues() {
  Device& here = device();
  const std::lock_guard guard(here.lock);
  here.run.reset();
  for (auto& stream : here.streams)
    if (stream) stream->queue.clear();
}

}  // namespace longhaul::emulator
