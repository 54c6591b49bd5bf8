// The emulator itself: what it must notice, and how it says so.
#include <catch2/catch.hpp>

#include "kernels/cuda/gpu.h"
#include "tests/gpu_emulator/attention_case.h"

namespace longhaul {
namespace {

struct Nothing {};
struct Pointer {
  int* data;
};

std::string fault_of(const std::function<void()>& run) {
  try {
    run();
    return "";
  } catch (const emulator::Fault& fault) {
    emulator::discard_queues();
    return fault.what();
  }
}
template <typename P>
std::string fault_of(void (*kernel)(P), int threads, std::size_t shared, P parameters = {}) {
  return fault_of([=] { gpu::launch(kernel, dim3(1), threads, shared, parameters); });
}

GPU_KERNEL race_kernel(Nothing) {
  gpu::shared_store<int>(gpu::shared_base(), gpu::thread_index());
}
GPU_KERNEL unsynchronised_read_kernel(Nothing) {
  gpu::shared_store<int>(gpu::shared_base() + gpu::thread_index() * 4, 1);
  gpu::shared_load<int>(gpu::shared_base() + (gpu::thread_index() ^ 1) * 4);
}
GPU_KERNEL synchronised_read_kernel(Nothing) {
  gpu::shared_store<int>(gpu::shared_base() + gpu::thread_index() * 4, 1);
  gpu::block_sync();
  gpu::shared_load<int>(gpu::shared_base() + (gpu::thread_index() ^ 1) * 4);
}
GPU_KERNEL uninitialised_kernel(Nothing) {
  gpu::shared_load<int>(gpu::shared_base() + 4);
}
GPU_KERNEL wild_shared_kernel(Nothing) {
  gpu::shared_store<int>(gpu::shared_base() + 64 * 4, 1);
}
GPU_KERNEL misaligned_kernel(Nothing) {
  gpu::shared_load<int4>(gpu::shared_base() + 8);
}
GPU_KERNEL wild_global_kernel(Pointer p) {
  gpu::global_load(p.data + gpu::thread_index());
}
GPU_KERNEL deadlock_kernel(Nothing) {
  if (gpu::thread_index() >= 32) gpu::named_barrier_sync(3, 64);
}
GPU_KERNEL divergent_kernel(Nothing) {
  if (gpu::thread_index() & 1)
    gpu::ballot(true);
  else
    gpu::shuffle_xor(1, 1);
}
GPU_KERNEL never_initialised_kernel(Nothing) {
  gpu::mbarrier_wait(gpu::shared_base(), 0);
}
GPU_KERNEL copy_left_behind_kernel(Pointer p) {
  gpu::copy_async_16(gpu::shared_base() + gpu::thread_index() * 16, p.data, true);
}
GPU_KERNEL wgmma_early_read_kernel(Pointer p) {
  float d[32] = {};
  for (int i = gpu::thread_index(); i < 4096; i += 128) gpu::shared_store<int>(gpu::shared_base() + i * 4, 0);
  gpu::async_proxy_fence();
  gpu::block_sync();
  gpu::wgmma_fence();
  const std::uint64_t tile = gpu::wgmma_descriptor(gpu::shared_base(), 16, 1024);
  gpu::wgmma_kk<64>(d, tile, tile, false);
  gpu::wgmma_commit();
  const float early = d[0];  // before the wait
  gpu::wgmma_wait<0>();
  if (gpu::thread_index() == 0) p.data[0] = early != early, p.data[1] = d[0] == 0;
}
GPU_KERNEL wgmma_without_fence_kernel(Nothing) {
  float d[32] = {};
  const std::uint64_t tile = gpu::wgmma_descriptor(gpu::shared_base(), 16, 1024);
  gpu::wgmma_kk<64>(d, tile, tile, false);
}
GPU_KERNEL greedy_kernel(Nothing) {
  if (gpu::thread_index() < 128)
    gpu::registers_increase<240>();
  else
    gpu::registers_decrease<160>();
}

}  // namespace

TEST_CASE("the emulator names races by kind, thread and line") {
  CHECK_THAT(fault_of(race_kernel, 32, 256), Catch::Contains("RACE write after write at shared byte 0") &&
                                                 Catch::Contains("emulator_test.cpp:") && Catch::Contains("thread 1"));
  CHECK_THAT(fault_of(unsynchronised_read_kernel, 64, 256),
             Catch::Contains("uninitialised") || Catch::Contains("RACE"));
  CHECK(fault_of(synchronised_read_kernel, 64, 256) == "");
  // Nothing is reported that only looks like a race: the same kernel under other schedules.
  const emulator::Options before = emulator::options;
  for (emulator::options.seed = 1; emulator::options.seed < 10; emulator::options.seed++)
    CHECK(fault_of(synchronised_read_kernel, 64, 256) == "");
  emulator::options = before;
}

TEST_CASE("the emulator names wild and poisoned memory") {
  CHECK_THAT(fault_of(uninitialised_kernel, 32, 256), Catch::Contains("uninitialised shared byte 4"));
  CHECK_THAT(fault_of(wild_shared_kernel, 32, 256), Catch::Contains("shared store out of bounds: byte 256 of 256"));
  CHECK_THAT(fault_of(misaligned_kernel, 32, 256), Catch::Contains("misaligned at byte 8"));
  std::vector<int> memory(31);
  emulator::register_global(memory.data(), 31 * 4);
  CHECK_THAT(fault_of(wild_global_kernel, 32, 0, Pointer{memory.data()}),
             Catch::Contains("thread 31: global load of 4 bytes outside every registered buffer"));
  emulator::unregister_global(memory.data());
}

TEST_CASE("the emulator names what blocks wait for") {
  CHECK_THAT(fault_of(deadlock_kernel, 64, 0),
             Catch::Contains("DEADLOCK in block (0,0,0): threads 32-63 in bar.sync at") &&
                 Catch::Contains("emulator_test.cpp:"));
  CHECK_THAT(fault_of(divergent_kernel, 32, 0), Catch::Contains("divergent collective"));
  CHECK_THAT(fault_of(never_initialised_kernel, 32, 64), Catch::Contains("never initialised"));
  CHECK_THAT(fault_of(greedy_kernel, 384, 0), Catch::Contains("DEADLOCK") && Catch::Contains("setmaxnreg"));
}

GPU_KERNEL conflict_kernel(Nothing) {
  for (int i = 0; i < 32; i++) gpu::shared_store<int>(gpu::shared_base() + (i * 32 + gpu::thread_index()) * 4, 0);
  gpu::warp_sync();
  std::uint32_t r[4];
  gpu::ldmatrix_x4(r, gpu::shared_base() + gpu::thread_index() * 128);  // a column of unswizzled rows
}
TEST_CASE("the emulator counts ldmatrix's bank conflicts, and swizzled tiles have none") {
  emulator::statistics = {};
  CHECK(fault_of(conflict_kernel, 32, 4096) == "");
  CHECK(emulator::statistics.ldmatrix == 1);
  CHECK(emulator::statistics.ldmatrix_extra_waves == 4 * 7);

  emulator::statistics = {};
  const test::AttentionCase problem(test::MaskKind::causal, 1, 1, 1, 70, 130, 128);
  test::run_forward(problem, cuda::Type::bfloat16, cuda::Implementation::portable);
  CHECK(emulator::statistics.ldmatrix > 100);
  CHECK(emulator::statistics.mma > 1000);
  CHECK(emulator::statistics.ldmatrix_extra_waves == 0);
}

TEST_CASE("the emulator holds asynchronous work to its waits") {
  alignas(16) static int memory[4];
  emulator::register_global(memory, sizeof memory);
  const emulator::Options before = emulator::options;
  emulator::options.seed = 3;
  CHECK_THAT(fault_of(copy_left_behind_kernel, 32, 512, Pointer{memory}),
             Catch::Contains("exits with copies under way"));
  emulator::options = before;
  CHECK(fault_of(wgmma_early_read_kernel, 128, 16384, Pointer{memory}) == "");
  CHECK(memory[0] == 1);  // NaN before the wait
  CHECK(memory[1] == 1);  // the product after it
  CHECK_THAT(fault_of(wgmma_without_fence_kernel, 128, 16384), Catch::Contains("wgmma without wgmma.fence"));
  emulator::unregister_global(memory);
}

}  // namespace longhaul
