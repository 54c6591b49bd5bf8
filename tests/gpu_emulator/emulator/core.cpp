// Fibers: switching, blocking, failing; and the barriers that bring them together.
#include "tests/gpu_emulator/emulator/core.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>

#include "tests/gpu_emulator/emulator/fiber_switch.h"

namespace longhaul::emulator {

Options options;
thread_local constinit Statistics statistics;
thread_local constinit Block* block = nullptr;

void yield() {
  longhaul_emulator_switch(&self().stack_pointer, block->scheduler);
}

namespace {
std::string described(Site site, const char* format, va_list arguments) {
  char text[512];
  int used =
      std::snprintf(text, sizeof text, "block (%u,%u,%u)%s thread %d: ", block->index.x, block->index.y, block->index.z,
                    block->stream ? (" of stream " + std::to_string(block->stream)).c_str() : "", block->current);
  std::vsnprintf(text + used, sizeof text - used, format, arguments);
  const Fiber& fiber = self();
  return text + (" (at " + name_of(intern(site))) +
         (fiber.composed ? ", part of " + name_of(intern(fiber.caller)) : "") + ")";
}
}  // namespace

void report(Site site, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  block->fault = described(site, format, arguments);
  va_end(arguments);
}
void fail(Site site, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  block->fault = described(site, format, arguments);
  va_end(arguments);
  yield();  // never resumed
  std::abort();
}

void wait_generation(const long* generation, long awaited, const char* reason, Site site) {
  Fiber& fiber = self();
  fiber.generation = generation, fiber.awaited = awaited, fiber.reason = reason, fiber.site = site;
  while (*generation == awaited) yield();
  fiber.generation = nullptr;
}
void wait_ready(std::function<bool()> ready, const char* reason, Site site, bool outside) {
  Fiber& fiber = self();
  fiber.ready = std::move(ready), fiber.reason = reason, fiber.site = site, fiber.outside = outside;
  if (block->lock_step)
    stop_at(Stop::spin, site);
  else
    while (!fiber.ready()) yield();
  fiber.ready = nullptr, fiber.outside = false;
}

void arrive(Barrier& barrier, int expected, bool wait, const char* what, Site site) {
  if (barrier.count == 0) {
    barrier.expected = expected;
    barrier.arriving.assign(block->threads + kAsyncProxies, 0);
  }
  if (barrier.expected != expected)
    fail(site, "%s: %d threads expected here, %d by an earlier arrival", what, expected, barrier.expected);
  Fiber& fiber = self();
  // All threads of the block: what they did before it has an older epoch, so only what they know of copies is joined.
  // Without mbarriers, yet, there are none that a thread could know of.
  const bool whole = expected == block->threads && &barrier == &block->barriers[0];
  const auto knows = [&] { return options.race && !(whole && block->memory_barriers.empty()); };
  if (knows()) {
    if (whole)
      for (std::size_t i = static_cast<std::size_t>(block->threads); i < fiber.clock.size(); i++)
        barrier.arriving[i] = std::max(barrier.arriving[i], fiber.clock[i]);
    else
      join(barrier.arriving, fiber.clock);
  }
  fiber.clock[fiber.id]++;
  const long generation = barrier.generation;
  if (++barrier.count == expected) {
    barrier.count = 0;
    barrier.done = barrier.arriving;
    barrier.generation++;
    statistics.barriers++;
  } else if (wait) {
    wait_generation(&barrier.generation, generation, what, site);
  }
  if (wait && knows()) {
    if (whole)
      for (std::size_t i = static_cast<std::size_t>(block->threads); i < fiber.clock.size(); i++)
        fiber.clock[i] = std::max(fiber.clock[i], barrier.done[i]);
    else
      join(fiber.clock, barrier.done);
  }
  if (whole) fiber.epoch++;
}

}  // namespace longhaul::emulator
