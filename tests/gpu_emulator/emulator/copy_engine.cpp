// mbarriers, the copy engine and the register pool.
#include "kernels/cuda/gpu.h"

namespace longhaul::gpu {
namespace emu = emulator;

static emu::MemoryBarrier& memory_barrier(std::uint32_t address, emu::Site site) {
  emu::shared_at(address, 8, "mbarrier", site);
  auto found = emu::block->memory_barriers.find(address);
  if (found == emu::block->memory_barriers.end())
    emu::fail(site, "mbarrier at shared byte %u was never initialised", address - emu::kSharedBase);
  emu::MemoryBarrier& barrier = found->second;
  if (emu::options.race && barrier.init_epoch >= emu::self().epoch &&
      barrier.init_clock > emu::self().clock[barrier.init_thread])
    emu::fail(site, "RACE mbarrier at shared byte %u used before its init by thread %d is visible",
              address - emu::kSharedBase, barrier.init_thread);
  if (!barrier.fenced && barrier.init_thread != emu::block->current)
    emu::fail(site, "mbarrier at shared byte %u, set up by thread %d, is used without fence.mbarrier_init",
              address - emu::kSharedBase, barrier.init_thread);
  return barrier;
}
void mbarrier_init_fence() {
  for (auto& [address, barrier] : emu::block->memory_barriers)
    if (barrier.init_thread == emu::block->current) barrier.fenced = true;
}
static void arrive(emu::MemoryBarrier& barrier, emu::Site site) {
  if (barrier.pending <= 0) emu::fail(site, "more arrivals than the mbarrier expects");
  emu::Fiber& fiber = emu::self();
  emu::join(barrier.arriving, fiber.clock);
  fiber.clock[fiber.id]++;
  barrier.pending--;
  emu::complete_phase(barrier);
}

void mbarrier_init(std::uint32_t address, int arrivals, emu::Site site) {
  emu::shared_at(address, 8, "mbarrier", site);
  emu::MemoryBarrier barrier;
  barrier.count = barrier.pending = arrivals;
  barrier.proxy = static_cast<int>(emu::block->memory_barriers.size()) % emu::kAsyncProxies;
  barrier.init_thread = emu::block->current;
  barrier.init_clock = emu::self().clock[emu::block->current];
  barrier.init_epoch = emu::self().epoch;
  barrier.arriving.assign(emu::block->threads + emu::kAsyncProxies, 0);
  emu::block->memory_barriers[address] = barrier;
}
void mbarrier_arrive(std::uint32_t address, emu::Site site) {
  arrive(memory_barrier(address, site), site);
}
void mbarrier_arrive_expect(std::uint32_t address, int bytes, emu::Site site) {
  emu::MemoryBarrier& barrier = memory_barrier(address, site);
  barrier.bytes += bytes;
  arrive(barrier, site);
}
void mbarrier_wait(std::uint32_t address, int parity, emu::Site site) {
  emu::MemoryBarrier& barrier = memory_barrier(address, site);
  while ((barrier.generation & 1) == (parity & 1))
    emu::wait_generation(&barrier.generation, barrier.generation, "mbarrier.try_wait", site);
  if (barrier.generation && emu::options.race) emu::join(emu::self().clock, barrier.done);
}

void tensor_load_4d(std::uint32_t destination, const TensorMap* map, std::uint32_t barrier_address, int c0, int c1,
                    int c2, int c3, emu::Site site) {
  emu::MemoryBarrier& barrier = memory_barrier(barrier_address, site);
  const int corner[4] = {c0, c1, c2, c3}, *box = map->box;
  if (box[0] * 2 > 128) emu::fail(site, "a swizzled box is at most 128 bytes wide");
  if (destination % 1024) emu::fail(site, "a swizzled tile must start at a multiple of 1024 bytes");
  const std::size_t count = static_cast<std::size_t>(box[0]) * box[1] * box[2] * box[3];
  emu::shared_at(destination, 128, "tensor copy", site);
  emu::shared_at(destination + static_cast<std::uint32_t>(count) * 2 - 128, 128, "tensor copy", site);
  std::vector<char> data(count * 2);
  for (std::size_t i = 0; i < count; i++) {
    std::size_t rest = i;
    long long at = 0;
    bool inside = true;
    for (int d = 0; d < 4; d++) {
      const long long x = corner[d] + static_cast<long long>(rest % box[d]);
      rest /= box[d];
      inside = inside && x >= 0 && x < map->extent[d];
      at += x * map->stride[d];
    }
    bfloat16 value(0.0f);
    if (inside) {
      emu::check_global(map->base + at, 2, "tensor copy source", site);
      value = map->base[at];
    }
    std::memcpy(&data[gpu_layout::swizzle_128(destination + static_cast<std::uint32_t>(i) * 2) - destination], &value,
                2);
  }
  emu::start_copy(destination, std::move(data), &barrier, site);
}

void bulk_load(std::uint32_t destination, const void* source, int bytes, std::uint32_t barrier_address,
               emu::Site site) {
  emu::MemoryBarrier& barrier = memory_barrier(barrier_address, site);
  emu::shared_at(destination, 16, "bulk copy", site);
  const char* from = static_cast<const char*>(source);
  if (bytes % 16) emu::fail(site, "a bulk copy of %d bytes: not a multiple of 16", bytes);
  for (int i = 0; i < bytes; i += 16) emu::check_global(from + i, 16, "bulk copy source", site);
  emu::start_copy(destination, std::vector<char>(from, from + bytes), &barrier, site);
}

void bulk_add_float(float* destination, std::uint32_t source, int bytes, emu::Site site) {
  const int thread = emu::block->current;
  emu::self().bulk_stores.push_back([=] {  // runs when its reads are waited for
    emu::check_async_read(source, bytes, thread, site, "bulk add");
    const float* from = reinterpret_cast<const float*>(emu::block->shared.data() + (source - emu::kSharedBase));
    for (int i = 0; i < bytes / 4; i++) {
      emu::check_global(destination + i, 4, "bulk add", site);
      destination[i] += from[i];
    }
  });
}

void register_pool_change(int registers, bool increase, emu::Site site) {
  if (registers % 8 || registers < 24 || registers > 240)
    emu::fail(site, "setmaxnreg of %d registers: a multiple of 8 in 24..240 is asked for", registers);
  int unused = 0;
  const int warp_index = emu::block->current / 32;
  emu::warp_meet(8, site, &unused, "setmaxnreg", [&](int**) {
    emu::WarpCollective& warp = emu::block->warps[warp_index];
    if (!increase) {
      if (registers > warp.registers)
        emu::fail(site, "setmaxnreg.dec to %d registers from %d", registers, warp.registers);
      emu::block->free_registers += (warp.registers - registers) * 32;
      warp.registers = registers;
    }
  });
  if (increase && emu::block->current % 32 == 0) {
    emu::Block* b = emu::block;
    const int wanted = (registers - b->warps[warp_index].registers) * 32;
    emu::wait_ready([=] { return b->free_registers >= wanted; }, "setmaxnreg.inc", site);
    b->free_registers -= wanted;
    b->warps[warp_index].registers = registers;
  }
  if (increase) emu::warp_meet(9, site, &unused, "setmaxnreg", [](int**) {});
}

}  // namespace longhaul::gpu
