// Waves of 64 lanes in lock step: what the emulator must notice of them, and the portable kernels on them, to the bit
// what they give on warps of 32. All kernel tests run on them with --wave 64.
#include <catch2/catch.hpp>

#include "kernels/cuda/gpu.h"
#include "tests/gpu_emulator/attention_case.h"
#include "tests/gpu_emulator/wave_kernels.h"

namespace longhaul::test {
namespace {

struct Words {
  std::uint32_t *out, *flags;
};

class Waves {
 public:
  explicit Waves(int lanes, unsigned seed = 0) : before_(emulator::options) {
    emulator::options.wave = lanes, emulator::options.seed = seed;
  }
  ~Waves() { emulator::options = before_; }
  Waves(const Waves&) = delete;
  Waves& operator=(const Waves&) = delete;

 private:
  emulator::Options before_;
};

// Of 96 threads: a wave and a half. What it says, and what it leaves in the words of its threads.
struct Outcome {
  std::string fault;
  std::vector<std::uint32_t> words;
};
Outcome run(void (*kernel)(Words), int lanes, unsigned seed = 0, int threads = 96) {
  const Waves waves(lanes, seed);
  const DeviceArray<std::uint32_t> out(std::vector<std::uint32_t>(2 * threads, 0)), flags(out.values());
  Outcome outcome;
  try {
    gpu::launch(kernel, dim3(1), threads, 1024, Words{out.data(), flags.data()});
  } catch (const emulator::Fault& fault) {
    outcome.fault = fault.what();
    emulator::discard_queues();
  }
  outcome.words = out.values();
  return outcome;
}

GPU_KERNEL shuffle_from_inactive_kernel(Words p) {
  const int t = gpu::thread_index();
  std::uint32_t value = static_cast<std::uint32_t>(t);
  if (t % 32 < 16) value = gpu::shuffle_xor(value, 16);
  gpu::block_sync();
  gpu::global_store(p.out + t, value);
}
GPU_KERNEL shuffle_among_active_kernel(Words p) {
  const int t = gpu::thread_index();
  std::uint32_t value = static_cast<std::uint32_t>(t);
  if (t % 32 < 16)
    value = gpu::shuffle_xor(value, 8);
  else
    value = 2 * gpu::shuffle_xor(value, 4);
  gpu::global_store(p.out + t, gpu::shuffle_xor(value, 1));  // all are here again
}
GPU_KERNEL shuffle_from_ended_kernel(Words p) {
  const int t = gpu::thread_index();
  if (t >= 70) return;
  gpu::global_store(p.out + t, gpu::shuffle(static_cast<std::uint32_t>(t), t + 1));
}
GPU_KERNEL votes_kernel(Words p) {
  const int t = gpu::thread_index();
  std::uint32_t votes = 0;
  if (t % 32 >= 4) votes = gpu::ballot(t % 2 == 0 || t >= 32);  // who is not active does not vote
  gpu::global_store(p.out + t, votes);
}
// Each half of a wave is in an arm of its own; whole warps are active in both.
GPU_KERNEL warps_apart_kernel(Words p) {
  const int t = gpu::thread_index();
  std::uint32_t value = static_cast<std::uint32_t>(t);
  if (t / 32 % 2) {
    for (int m = 1; m < 32; m *= 2) value += gpu::shuffle_xor(value, m);
  } else {
    for (int i = 0; i < t / 32 + 1; i++) value += gpu::shuffle(value, i);
  }
  gpu::block_sync();
  gpu::global_store(p.out + t, value);
}
GPU_KERNEL signal_then_wait_kernel(Words p) {  // a ring of the lanes of the block: all signal before any waits
  const int t = gpu::thread_index(), next = (t + 1) % gpu::block_threads();
  gpu::signal_system(p.flags + t, 1);
  gpu::await_system(p.flags + next, 1);
  gpu::global_store(p.out + t, 1u);
}
GPU_KERNEL wait_then_signal_kernel(Words p) {  // a warp for the next
  const int t = gpu::thread_index();
  if (t == 0) gpu::await_system(p.flags, 1);
  if (t == 32) gpu::signal_system(p.flags, 1);
}
GPU_KERNEL waits_for_the_next_wave_kernel(Words p) {
  const int t = gpu::thread_index();
  if (t == 0) gpu::await_system(p.flags, 1);
  if (t == 64) gpu::signal_system(p.flags, 1);
}
// Two waves, turn by turn: a lane waits for the other wave's word, another lane gives this one's.
GPU_KERNEL wait_and_signal_in_turns_kernel(Words p) {
  const int t = gpu::thread_index(), wave = t / 64;
  for (std::uint32_t turn = 1; turn < 5; turn++) {
    if (t % 64 == 0) gpu::await_system(p.flags + 1 - wave, turn - static_cast<std::uint32_t>(1 - wave));
    if (t % 64 == 5) gpu::global_store(p.out + wave, turn);
    if (t % 64 == 7) gpu::signal_system(p.flags + wave, turn);
  }
}
GPU_KERNEL barrier_in_part_kernel(Words) {
  if (gpu::thread_index() != 40) gpu::block_sync();
  gpu::warp_sync();
}
GPU_KERNEL exchange_in_step_kernel(Words p) {  // without warp_sync: a race, though lanes in lock step get it right
  const int t = gpu::thread_index();
  gpu::shared_store(gpu::shared_base() + t * 4, t);
  gpu::global_store(p.out + t, gpu::shared_load<std::uint32_t>(gpu::shared_base() + (t ^ 1) * 4));
}
// The lane that arrives last in a place of the loop holds the others; arms follow each other.
GPU_KERNEL arms_kernel(Words p) {
  const int t = gpu::thread_index();
  for (int i = 0; i < t % 3; i++) {
    const std::uint32_t place = gpu::global_load_mutable(p.out + 96 + t);
    if (t % 2)
      gpu::global_store(p.out + 96 + t, place + 1);
    else
      gpu::global_store(p.out + 96 + t, place + 2);
  }
  gpu::global_store(p.out + t, gpu::ballot(true));
}
GPU_KERNEL named_barrier_kernel(Words) {
  gpu::named_barrier_sync(1, 64);
}

}  // namespace

TEST_CASE("what lanes of a wave exchange comes from those that are active") {
  for (const unsigned seed : {0u, 1u, 2u}) {
    CHECK_THAT(run(shuffle_from_inactive_kernel, 64, seed).fault,
               Catch::Contains("shuffle from lane") && Catch::Contains("which is not active but at waves_test.cpp:") &&
                   Catch::Contains("(at waves_test.cpp:"));
    CHECK_THAT(run(shuffle_from_ended_kernel, 64, seed).fault,
               Catch::Contains("thread 69: shuffle from lane 6 of the wave, which has ended"));
    const Outcome among = run(shuffle_among_active_kernel, 64, seed);
    CHECK(among.fault == "");
    for (int t = 0; t < 96; t++) {
      const int other = t ^ 1;
      CHECK(among.words[t] == static_cast<std::uint32_t>(other % 32 < 16 ? other ^ 8 : 2 * (other ^ 4)));
    }
    CHECK_THAT(run(shuffle_among_active_kernel, 32, seed).fault, Catch::Contains("divergent collective"));
    const Outcome votes = run(votes_kernel, 64, seed);
    CHECK(votes.fault == "");
    for (int t = 0; t < 96; t++) CHECK(votes.words[t] == (t % 32 < 4 ? 0u : t < 32 ? 0x55555550u : 0xfffffff0u));
    const Outcome apart = run(warps_apart_kernel, 64, seed);
    CHECK(apart.fault == "");
    CHECK(apart.words == run(warps_apart_kernel, 32, seed).words);
    const Outcome arms = run(arms_kernel, 64, seed);
    CHECK(arms.fault == "");
    CHECK(arms.words == run(arms_kernel, 32, seed).words);
    CHECK(arms.words[95] == 0xffffffffu);
  }
}

TEST_CASE("a wave has one program counter: a lane that waits for another of its own wave holds it") {
  for (const unsigned seed : {0u, 1u, 2u}) {
    CHECK(run(wait_then_signal_kernel, 32, seed).fault == "");
    CHECK_THAT(
        run(wait_then_signal_kernel, 64, seed).fault,
        Catch::Contains("DEADLOCK in block (0,0,0): threads 0-0 in a wait for another rank at waves_test.cpp:") &&
            Catch::Contains("threads 32-32 in a wave that waits at waves_test.cpp:"));
    CHECK(run(waits_for_the_next_wave_kernel, 64, seed).fault == "");
    CHECK(run(signal_then_wait_kernel, 64, seed).fault == "");
    CHECK(run(wait_and_signal_in_turns_kernel, 64, seed).fault == "");
    CHECK_THAT(
        run(barrier_in_part_kernel, 64, seed).fault,
        Catch::Contains("a barrier of the block reached by part of a wave, thread 40 of which is at waves_test"));
    CHECK_THAT(run(named_barrier_kernel, 64, seed).fault,
               Catch::Contains("bar.sync is not to be had on waves of 64 lanes"));
  }
}

TEST_CASE("races are found in lock step too, where results are right") {
  CHECK_THAT(run(exchange_in_step_kernel, 64, 1).fault, Catch::Contains("RACE read after write at shared byte"));
  emulator::options.race = false;
  const Outcome right = run(exchange_in_step_kernel, 64, 1);
  emulator::options.race = true;
  CHECK(right.fault == "");
  for (int t = 0; t < 96; t++) CHECK(right.words[t] == static_cast<std::uint32_t>(t ^ 1));
}

TEST_CASE("kernels whose defects show on waves alone are right without them, on both") {
  for (const int lanes : {32, 64})
    for (const unsigned seed : {0u, 1u}) {
      const Waves waves(lanes, seed);
      INFO("waves of " << lanes);
      CHECK(add_in_turn() == "");
      CHECK(hand_over_between_warps() == "");
      CHECK(hand_over_in_a_warp() == "");
      CHECK(places_by_votes() == "");
    }
}

TEST_CASE("portable attention on waves of 64 lanes gives the bits of warps of 32") {
  const auto portable = cuda::Implementation::portable;
  struct Case {
    AttentionCase problem;
    cuda::Type type;
    bool backward;
  };
  const std::vector<Case> cases = {{{MaskKind::causal, 2, 2, 1, 67, 99, 64}, cuda::Type::bfloat16, true},
                                   {{MaskKind::window, 1, 2, 1, 97, 131, 128}, cuda::Type::float32, true},
                                   {{MaskKind::dead_rows, 1, 2, 2, 35, 67, 256}, cuda::Type::bfloat16, false},
                                   {{MaskKind::packed, 1, 4, 1, 70, 150, 64}, cuda::Type::float32, true}};
  for (const Case& one : cases) {
    INFO(one.problem.describe());
    const BackwardOptions options{.type = one.type, .accumulate = one.type == cuda::Type::float32};
    ForwardResult forward;
    BackwardResult backward;
    {
      const Waves warps(32);
      forward = run_forward(one.problem, one.type, portable);
      if (one.backward) backward = run_backward(one.problem, options, portable);
    }
    for (const unsigned seed : {0u, 1u}) {
      const Waves waves(64, seed);
      const ForwardResult got = run_forward(one.problem, one.type, portable);
      check_forward(one.problem, got);
      CHECK(same_bits(got.out, forward.out));
      CHECK(same_bits(got.log_sum_exp, forward.log_sum_exp));
      if (!one.backward) continue;
      const BackwardResult gradients = run_backward(one.problem, options, portable);
      check_backward(one.problem, gradients);
      CHECK(same_bits(gradients.dq, backward.dq));
      CHECK(same_bits(gradients.dk, backward.dk));
      CHECK(same_bits(gradients.dv, backward.dv));
    }
  }
}

TEST_CASE("a device of waves of 64 lanes has the portable kernels, and says so") {
  const Waves waves(64);
  cuda::DeviceInfo info{};
  succeed(device().device_info(&info));
  CHECK(info.capability_major == 8);
  CHECK_THAT(std::string(info.name), Catch::Contains("waves of 64"));
  const AttentionCase problem(MaskKind::causal, 1, 1, 1, 5, 5, 64);
  check_forward(problem, run_forward(problem, cuda::Type::bfloat16, cuda::Implementation::automatic));
  CHECK_THROWS_WITH(run_forward(problem, cuda::Type::bfloat16, cuda::Implementation::hopper),
                    Catch::Contains("the Hopper kernels need a device of compute capability 9.0"));
  emulator::options.wave = 48;
  CHECK_THROWS_WITH(run_forward(problem, cuda::Type::bfloat16, cuda::Implementation::portable),
                    Catch::Contains("waves of 48 lanes"));
}

}  // namespace longhaul::test
