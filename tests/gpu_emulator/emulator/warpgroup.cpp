// wgmma: a product is queued when its warpgroup has met, and computed no earlier than it is waited for. Until then its
// accumulators hold NaN, so whoever reads them early shows.
#include "kernels/cuda/gpu.h"

namespace longhaul::gpu {
namespace emu = emulator;

static emu::WarpGroup& my_group() {
  return emu::block->warp_groups[emu::block->current / 128];
}

// `rows` rows of 16 elements along k as floats; rows are m or n, whichever way the operand lies in shared memory.
static void fetch_operand(std::uint64_t descriptor, bool mn_major, int rows, float* out, int thread, emu::Site site) {
  if (gpu_layout::descriptor_swizzle(descriptor) != 1) emu::fail(site, "wgmma descriptor without 128-byte swizzle");
  if (gpu_layout::descriptor_base_offset(descriptor)) emu::fail(site, "wgmma descriptor with a base offset");
  for (int row = 0; row < rows; row++)
    for (int k = 0; k < 16; k++) {
      const std::uint32_t address =
          mn_major ? gpu_layout::wgmma_mn_major(descriptor, row, k) : gpu_layout::wgmma_k_major(descriptor, row, k);
      if ((mn_major ? row : k) % 8 == 0) emu::check_async_read(address, 16, thread, site, "wgmma");
      bfloat16 value;
      std::memcpy(&value, emu::block->shared.data() + (address - emu::kSharedBase), 2);
      out[row * 16 + k] = value;
    }
}

void wgmma_fence() {
  my_group().fenced = true;
}

namespace {
struct Argument {
  float* d;
  const std::uint32_t* a;
};
// A operands in registers, as they were when wgmma was issued: nobody may change them before the wait.
struct LaneRegisters {
  const std::uint32_t* at;
  std::uint32_t value[4];
};
// D (64 x n, in the accumulator's layout) = A (64 x 16) times B (n x 16)' plus D when `add`.
void multiply(const float* a, const float* b, int n, bool add, emu::Accumulator& accumulator) {
  std::vector<float> transposed(16 * n), row(n);
  for (int j = 0; j < n; j++)
    for (int k = 0; k < 16; k++) transposed[k * n + j] = b[j * 16 + k];
  std::vector<float> product(64 * n, 0.0f);
  for (int i = 0; i < 64; i++)
    for (int k = 0; k < 16; k++) {
      const float factor = a[i * 16 + k];
      for (int j = 0; j < n; j++) product[i * n + j] += factor * transposed[k * n + j];
    }
  for (int thread = 0; thread < 128; thread++)
    for (int e = 0; e < n / 2; e++) {
      const gpu_layout::Place at = gpu_layout::wgmma_d(thread, e);
      float& x = accumulator.values[thread * (n / 2) + e];
      x = (add ? x : 0.0f) + product[at.row * n + at.column];
    }
}
}  // namespace

void emulate_wgmma(int n, float* d, const std::uint32_t* a_registers, std::uint64_t a, std::uint64_t b, bool a_mn_major,
                   bool b_mn_major, bool add, emu::Site site) {
  Argument argument{d, a_registers};
  emu::WarpGroup& group = my_group();
  emu::meet(group, 128, emu::block->current % 128, 10 + n, site, &argument, "wgmma", [&](Argument** lanes) {
    if (!group.fenced) emu::fail(site, "wgmma without wgmma.fence since the last wait");
    emu::Accumulator* accumulator = nullptr;
    for (auto& candidate : group.accumulators)
      if (candidate->registers[0] == lanes[0]->d) accumulator = candidate.get();
    if (!accumulator) {
      accumulator = group.accumulators.emplace_back(new emu::Accumulator).get();
      accumulator->count = n / 2;
      accumulator->values.resize(128 * n / 2);
      for (int lane = 0; lane < 128; lane++) {
        accumulator->registers[lane] = lanes[lane]->d;
        std::memcpy(&accumulator->values[lane * n / 2], lanes[lane]->d, n * 2);
        std::memset(static_cast<void*>(lanes[lane]->d), 0xff, n * 2);  // nobody may read them before the wait
      }
    }
    accumulator->left++;
    std::vector<float> a_values(64 * 16);
    std::vector<LaneRegisters> held;
    if (a_registers)
      for (int lane = 0; lane < 128; lane++) {
        held.push_back({lanes[lane]->a, {}});
        std::memcpy(held.back().value, lanes[lane]->a, sizeof held.back().value);
        for (int e = 0; e < 8; e++) {
          const gpu_layout::Place at = gpu_layout::wgmma_a(lane, e);
          a_values[at.row * 16 + at.column] = bfloat16_of(lanes[lane]->a[e / 2], e & 1);
        }
      }
    const int thread = emu::block->current / 128 * 128;
    const bool from_shared = !a_registers;
    group.open.push_back({[=]() mutable {
                            emu::statistics.wgmma++;
                            for (const LaneRegisters& lane : held)
                              if (std::memcmp(lane.at, lane.value, sizeof lane.value))
                                emu::fail(site, "registers of a running wgmma were changed before it was waited for");
                            std::vector<float> b_values(n * 16);
                            if (from_shared) fetch_operand(a, a_mn_major, 64, a_values.data(), thread, site);
                            fetch_operand(b, b_mn_major, n, b_values.data(), thread, site);
                            multiply(a_values.data(), b_values.data(), n, add, *accumulator);
                          },
                          accumulator});
  });
}

void wgmma_commit(emu::Site site) {
  int unused = 0;
  emu::WarpGroup& group = my_group();
  emu::meet(group, 128, emu::block->current % 128, 1, site, &unused, "wgmma.commit_group", [&](int**) {
    group.groups.push_back(std::move(group.open));
    group.open.clear();
  });
}

void emulate_wgmma_wait(int newest_left, emu::Site site) {
  int unused = 0;
  emu::WarpGroup& group = my_group();
  emu::meet(group, 128, emu::block->current % 128, 2, site, &unused, "wgmma.wait_group", [&](int**) {
    while (static_cast<int>(group.groups.size()) > newest_left) {
      for (emu::WarpGroupOperation& operation : group.groups.front()) {
        operation.run();
        emu::Accumulator* done = operation.accumulator;
        if (--done->left) continue;
        for (int lane = 0; lane < 128; lane++)
          std::memcpy(static_cast<void*>(done->registers[lane]), &done->values[lane * done->count], done->count * 4);
        std::erase_if(group.accumulators, [&](const auto& candidate) { return candidate.get() == done; });
      }
      group.groups.erase(group.groups.begin());
    }
    group.fenced = false;
  });
}

}  // namespace longhaul::gpu
