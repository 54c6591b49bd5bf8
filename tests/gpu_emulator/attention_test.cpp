// The attention kernels, portable and Hopper, against the plain ones in double.
#include <catch2/catch.hpp>

#include "tests/gpu_emulator/attention_case.h"

namespace longhaul::test {
namespace {

constexpr MaskKind kMasks[] = {MaskKind::full, MaskKind::causal, MaskKind::window,    MaskKind::packed,
                               MaskKind::ring, MaskKind::zigzag, MaskKind::dead_rows, MaskKind::dead_tiles};

void forward_on(cuda::Implementation implementation, const AttentionCase& problem, cuda::Type type, int schedules) {
  INFO(problem.describe());
  ForwardResult first;
  for_each_schedule(schedules, [&] {
    const ForwardResult result = run_forward(problem, type, implementation);
    check_forward(problem, result);
    if (first.out.empty()) first = result;
    CHECK(same_bits(first.out, result.out));
    CHECK(same_bits(first.log_sum_exp, result.log_sum_exp));
  });
}
void backward_on(cuda::Implementation implementation, const AttentionCase& problem, BackwardOptions options,
                 int schedules) {
  INFO(problem.describe());
  BackwardResult first;
  for_each_schedule(schedules, [&] {
    const BackwardResult result = run_backward(problem, options, implementation);
    check_backward(problem, result);
    if (first.dq.empty()) first = result;
    if (options.unordered) return;
    CHECK(same_bits(first.dq, result.dq));
    CHECK(same_bits(first.dk, result.dk));
    CHECK(same_bits(first.dv, result.dv));
  });
}
constexpr cuda::Type kBfloat16 = cuda::Type::bfloat16, kFloat32 = cuda::Type::float32;

}  // namespace

TEST_CASE("portable attention forward") {
  const auto implementation = cuda::Implementation::portable;
  for (const MaskKind mask : kMasks) {
    INFO("mask " << name_of(mask));
    forward_on(implementation, {mask, 2, 4, 2, 131, 167, 64}, kBfloat16, 2);
    forward_on(implementation, {mask, 1, 2, 1, 97, 131, 128}, kFloat32, 2);
    forward_on(implementation, {mask, 1, 2, 2, 67, 99, 256}, kBfloat16, 2);
  }
}

TEST_CASE("portable attention backward") {
  const auto implementation = cuda::Implementation::portable;
  for (const MaskKind mask : kMasks) {
    INFO("mask " << name_of(mask));
    backward_on(implementation, {mask, 2, 4, 2, 67, 131, 64}, {}, 2);
    backward_on(implementation, {mask, 1, 2, 1, 99, 131, 128}, {kFloat32, true, true, false}, 2);
  }
}

TEST_CASE("Hopper attention forward") {
  const auto implementation = cuda::Implementation::hopper;
  for (const MaskKind mask : kMasks) {
    INFO("mask " << name_of(mask));
    forward_on(implementation, {mask, 2, 2, 1, 167, 300, 64}, kBfloat16, 2);
    forward_on(implementation, {mask, 1, 2, 1, 131, 400, 128}, kFloat32, 2);
    forward_on(implementation, {mask, 1, 2, 2, 150, 199, 256}, kBfloat16, 1);
  }
}

TEST_CASE("Hopper attention backward") {
  const auto implementation = cuda::Implementation::hopper;
  for (const MaskKind mask : kMasks) {
    INFO("mask " << name_of(mask));
    backward_on(implementation, {mask, 1, 4, 2, 131, 300, 64}, {}, 2);
    backward_on(implementation, {mask, 1, 2, 2, 201, 261, 128}, {kFloat32, true, true, false}, 2);
  }
  backward_on(implementation, {MaskKind::causal, 1, 2, 1, 201, 261, 128}, {kBfloat16, false, false, true}, 2);
}

TEST_CASE("attention reads strided heads and refuses what it cannot do") {
  // q, k and v as views of one [b, s, 3 heads, d] tensor, as a fused projection writes it.
  AttentionCase problem(MaskKind::causal, 2, 2, 2, 70, 70, 64);
  const std::int64_t heads = 2, d = 64, row = 3 * heads * d, rows = 70;
  std::vector<bfloat16> fused(2 * rows * row);
  for (std::int64_t r = 0; r < 2 * rows; r++)
    for (std::int64_t i = 0; i < heads * d; i++) {
      fused[r * row + i] = problem.q[r * heads * d + i];
      fused[r * row + heads * d + i] = problem.k[r * heads * d + i];
      fused[r * row + 2 * heads * d + i] = problem.v[r * heads * d + i];
    }
  const DeviceArray<bfloat16> tensor(fused), out(problem.q.size());
  const DeviceArray<float> log_sum_exp(problem.log_sum_exp.size());
  const DeviceArray<std::int32_t> query_index(problem.query_index), key_start(problem.key_start);
  const DeviceArray<char> mask(device().attention_mask_bytes(2, 70, 70));
  const cuda::AttentionMask mask_call{2, 70, 70, 0, query_index.data(), key_start.data(), query_index.data()};
  succeed(device().attention_mask(&mask_call, mask.data(), nullptr));
  auto view = [&](std::int64_t at) { return cuda::HeadMatrix{tensor.data() + at, rows * row, row, d}; };
  cuda::AttentionForward call{problem.shape,   mask.data(),         view(0),
                              view(heads * d), view(2 * heads * d), {out.data(), 0, 0, 0},
                              kBfloat16,       log_sum_exp.data(),  cuda::Implementation::automatic};
  succeed(device().attention_forward(&call, nullptr));
  check_forward(problem, {to_float(to_double(out.values())), log_sum_exp.values()});

  call.shape.head_dim = 96;
  CHECK(device().attention_forward(&call, nullptr) != 0);
  CHECK_THAT(device().last_error(), Catch::Contains("head_dim must be 64, 128 or 256, not 96"));
  call.shape.head_dim = 64;
  call.q.row_stride = row + 1;
  CHECK(device().attention_forward(&call, nullptr) != 0);
  CHECK_THAT(device().last_error(), Catch::Contains("q must be 16-byte aligned"));
}

}  // namespace longhaul::test
