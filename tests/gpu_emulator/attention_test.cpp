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
bool has_hopper() {
  cuda::DeviceInfo info{};
  succeed(device().device_info(&info));
  return info.capability_major == 9 && info.capability_minor == 0;
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
  if (!has_hopper()) return;
  const auto implementation = cuda::Implementation::hopper;
  for (const MaskKind mask : kMasks) {
    INFO("mask " << name_of(mask));
    forward_on(implementation, {mask, 2, 2, 1, 167, 300, 64}, kBfloat16, 2);
    forward_on(implementation, {mask, 1, 2, 1, 131, 400, 128}, kFloat32, 2);
    forward_on(implementation, {mask, 1, 2, 2, 150, 199, 256}, kBfloat16, 1);
  }
}

TEST_CASE("Hopper attention backward") {
  if (!has_hopper()) return;
  const auto implementation = cuda::Implementation::hopper;
  for (const MaskKind mask : kMasks) {
    INFO("mask " << name_of(mask));
    backward_on(implementation, {mask, 1, 4, 2, 131, 300, 64}, {}, 2);
    backward_on(implementation, {mask, 1, 2, 2, 201, 261, 128}, {kFloat32, true, true, false}, 2);
  }
  backward_on(implementation, {MaskKind::causal, 1, 2, 1, 201, 261, 128}, {kBfloat16, false, false, true}, 2);
}

TEST_CASE("the query heads of a kv head are divided over blocks, in parts that are added in order") {
  const AttentionCase problem(MaskKind::causal, 2, 12, 2, 70, 150, 64);
  for (const auto implementation : {cuda::Implementation::portable, cuda::Implementation::hopper}) {
    if (implementation == cuda::Implementation::hopper && !has_hopper()) continue;
    std::vector<BackwardResult> by_parts;
    for (const std::int32_t parts : {1, 2, 3, 6, 0}) {
      INFO("parts " << parts);
      const BackwardOptions options{.type = kFloat32, .accumulate = parts == 3, .parts = parts};
      by_parts.push_back(run_backward(problem, options, implementation));
      check_backward(problem, by_parts.back());
      if (parts != 3) CHECK(same_bits(by_parts.back().dq, by_parts[0].dq));  // which a part has to itself
    }
    CHECK(!same_bits(by_parts[0].dk, by_parts[3].dk));  // added in another order
    CHECK(same_bits(by_parts[4].dk, by_parts[3].dk));   // so few blocks are divided as far as can be
    CHECK(same_bits(by_parts[4].dv, by_parts[3].dv));
    backward_on(implementation, problem, {.parts = 3}, 2);
    backward_on(implementation, problem, {.type = kFloat32, .accumulate = true, .unordered = true, .parts = 2}, 2);
    // A group that a wide device keeps busy stays whole: the workspace says so.
    cuda::AttentionShape wide{1, 64, 128 * 12 * 132, 4, 1, 64, 1};
    const std::size_t whole = device().attention_backward_workspace(&wide);
    wide.parts = 1;
    CHECK(device().attention_backward_workspace(&wide) == whole);
    wide.keys /= 2, wide.parts = 0;
    CHECK(device().attention_backward_workspace(&wide) > whole);
    cuda::AttentionBackward call{};
    call.shape = problem.shape, call.shape.parts = 4, call.workspace = &call;
    CHECK(device().attention_backward(&call, nullptr) != 0);
    CHECK_THAT(device().last_error(), Catch::Contains("parts must divide the 6 query heads of a kv head, not 4"));
  }
}

TEST_CASE("attention in blocks of keys, merged, with gradients that accumulate") {
  for (const auto implementation : {cuda::Implementation::portable, cuda::Implementation::hopper}) {
    if (implementation == cuda::Implementation::hopper && !has_hopper()) continue;
    for (const MaskKind mask : {MaskKind::causal, MaskKind::zigzag, MaskKind::dead_rows}) {
      const AttentionCase problem(mask, 2, 2, 1, 90, 201, 64);
      INFO(problem.describe() << ", mask " << name_of(mask));
      const BlockwiseResult result = run_blockwise(problem, 3, implementation);
      check_forward(problem, result.forward);
      check_backward(problem, result.backward);
    }
  }
}

TEST_CASE("random attention problems", "[slow]") {
  std::mt19937 random(1);
  auto pick = [&](int low, int high) { return low + static_cast<int>(random() % (high - low + 1)); };
  for (int i = 0; i < 40; i++) {
    const int kv_heads = pick(1, 2), head_dim = 64 << pick(0, 1);
    const AttentionCase problem(kMasks[pick(0, 7)], pick(1, 2), kv_heads * pick(1, 3), kv_heads, pick(1, 330),
                                pick(1, 330), head_dim, 100 + i);
    INFO("problem " << i << ": " << problem.describe());
    for (const auto implementation : {cuda::Implementation::portable, cuda::Implementation::hopper}) {
      if (implementation == cuda::Implementation::hopper && !has_hopper()) continue;
      forward_on(implementation, problem, i % 2 ? kBfloat16 : kFloat32, 2);
      backward_on(implementation, problem, {i % 2 ? kFloat32 : kBfloat16, i % 2 == 1, i % 3 == 0, false}, 2);
    }
  }
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
