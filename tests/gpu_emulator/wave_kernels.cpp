#include "tests/gpu_emulator/wave_kernels.h"

#include "kernels/cuda/gpu.h"
#include "tests/gpu_emulator/device_under_test.h"

namespace longhaul::test {
namespace {

constexpr int kThreads = 128;

struct Turns {
  float* sum;
  std::uint32_t* flags;
};
GPU_KERNEL add_in_turn_kernel(Turns p) {
  const int t = gpu::thread_index();
  if (GPU_FAULT(wave_lane_chain)) {
    if (t) gpu::await_system(p.flags + t - 1, 1);  // lane t - 1 of the same wave is masked off until t is out of here
    gpu::global_store(p.sum, gpu::global_load_mutable(p.sum) + 1.0f / static_cast<float>(t + 1));
    gpu::signal_system(p.flags + t, 1);
    return;
  }
  for (int turn = 0; turn < kThreads; turn++) {
    if (t == turn) gpu::global_store(p.sum, gpu::global_load_mutable(p.sum) + 1.0f / static_cast<float>(t + 1));
    gpu::block_sync();
  }
}

struct HandOver {
  const int* from;
  int* to;
};
GPU_KERNEL hand_over_between_warps_kernel(HandOver p) {
  const int t = gpu::thread_index();
  const std::uint32_t mine = gpu::shared_base() + static_cast<std::uint32_t>(t & 31) * 4;
  if (t < 32) {
    gpu::shared_store(mine, gpu::global_load(p.from + t));
    if (GPU_FAULT(wave_barrier_in_arms)) gpu::block_sync();  // each arm counts the wave: twice
  }
  if (!GPU_FAULT(wave_barrier_in_arms) || t >= 32) gpu::block_sync();
  if (t >= 32) gpu::global_store(p.to + (t - 32), gpu::shared_load<int>(mine) + t / 32);
}

GPU_KERNEL hand_over_in_a_warp_kernel(HandOver p) {
  const int t = gpu::thread_index(), lane = t & 31;
  const std::uint32_t slots = gpu::shared_base() + static_cast<std::uint32_t>(t / 32) * 64;
  if (lane < 16) {
    gpu::shared_store(slots + static_cast<std::uint32_t>(lane) * 4, gpu::global_load(p.from + t));
    if (GPU_FAULT(wave_sync_in_arms)) gpu::warp_sync();  // the other lanes are not active
  }
  if (!GPU_FAULT(wave_sync_in_arms) || lane >= 16) gpu::warp_sync();
  if (lane >= 16) gpu::global_store(p.to + t, gpu::shared_load<int>(slots + static_cast<std::uint32_t>(lane - 16) * 4));
}

GPU_KERNEL places_by_votes_kernel(HandOver p) {
  const int t = gpu::thread_index();
  const bool keeps = gpu::global_load(p.from + t) != 0;
  const std::uint32_t before = (1u << (t & 31)) - 1;
  const std::uint32_t votes = gpu::ballot(keeps);
  gpu::global_store(p.to + t, keeps ? gpu::count_bits(votes & before) : -1);
}

std::string run(void (*kernel)(HandOver), const std::vector<int>& from, const std::vector<int>& expected) {
  const DeviceArray<int> d_from(from), d_to(expected.size());
  gpu::launch(kernel, dim3(1), kThreads, 4 * 64, HandOver{d_from.data(), d_to.data()});
  const std::vector<int> got = d_to.values();
  for (std::size_t i = 0; i < expected.size(); i++)
    if (expected[i] != -2 && got[i] != expected[i])
      return "thread " + std::to_string(i) + " has " + std::to_string(got[i]) + ", not " + std::to_string(expected[i]);
  return "";
}
std::vector<int> numbers() {
  std::vector<int> values(kThreads);
  for (int i = 0; i < kThreads; i++) values[i] = 100 + i * 7 % 31;
  return values;
}

}  // namespace

std::string add_in_turn() {
  const DeviceArray<float> sum(std::vector<float>{0});
  const DeviceArray<std::uint32_t> flags(std::vector<std::uint32_t>(kThreads, 0));
  succeed(device().synchronize());
  gpu::launch(add_in_turn_kernel, dim3(1), kThreads, 0, Turns{sum.data(), flags.data()});
  float expected = 0;
  for (int i = 0; i < kThreads; i++) expected += 1.0f / static_cast<float>(i + 1);
  return sum.values()[0] == expected ? "" : "wrong sum";
}
std::string hand_over_between_warps() {
  std::vector<int> expected;
  for (int t = 32; t < kThreads; t++) expected.push_back(numbers()[t & 31] + t / 32);
  return run(hand_over_between_warps_kernel, numbers(), expected);
}
std::string hand_over_in_a_warp() {
  std::vector<int> expected(kThreads, -2);
  for (int t = 0; t < kThreads; t++)
    if (t % 32 >= 16) expected[t] = numbers()[t - 16];
  return run(hand_over_in_a_warp_kernel, numbers(), expected);
}
std::string places_by_votes() {
  std::vector<int> keeps, expected;
  for (int t = 0, before = 0; t < kThreads; t++) {
    if (t % 32 == 0) before = 0;
    keeps.push_back((t * 13 + t / 32) % 5 < 2);
    expected.push_back(keeps.back() ? before++ : -1);
  }
  return run(places_by_votes_kernel, keeps, expected);
}

}  // namespace longhaul::test
