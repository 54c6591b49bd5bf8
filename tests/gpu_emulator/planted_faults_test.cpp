// Every defect of faults.h is planted in turn and must be found: by the detector, by a deadlock, or by the result.
// [slow] also counts the schedules that would show each without the detector.
#include <catch2/catch.hpp>
#include <cstdio>
#include <map>

#include "tests/gpu_emulator/attention_case.h"
#include "tests/gpu_emulator/collectives_run.h"
#include "tests/gpu_emulator/emulator/core.h"
#include "tests/gpu_emulator/faults.h"
#include "tests/gpu_emulator/wave_kernels.h"

namespace longhaul::test {
namespace {

// Runs a problem with the planted fault; says how it went wrong, or "" when nothing showed.
using Look = std::function<std::string()>;

std::string verdict(const Difference& difference, double bound, const char* what) {
  return difference.relative < bound ? "" : std::string("wrong ") + what;
}
Look forward(cuda::Implementation implementation, MaskKind mask, int head_dim, int queries, int keys) {
  return [=] {
    static std::map<std::string, AttentionCase> cases;
    const AttentionCase& problem =
        cases
            .try_emplace(name_of(mask) + std::to_string(head_dim) + "/" + std::to_string(keys), mask, 1, 2, 1, queries,
                         keys, head_dim)
            .first->second;
    const ForwardResult result = run_forward(problem, cuda::Type::bfloat16, implementation);
    return verdict(difference(result.out, problem.out), 6e-3, "output") +
           verdict(difference(result.log_sum_exp, problem.log_sum_exp), 1e-4, "log-sum-exp");
  };
}
std::string backward_parts() {
  static const AttentionCase problem(MaskKind::causal, 1, 4, 1, 40, 40, 64);
  const BackwardResult result = run_backward(problem, {.type = cuda::Type::float32}, cuda::Implementation::portable);
  return verdict(difference(result.dk, problem.dk), 8e-3, "dK") +
         verdict(difference(result.dv, problem.dv), 8e-3, "dV");
}
Look backward(cuda::Implementation implementation, MaskKind mask, int head_dim, int queries, int keys) {
  return [=] {
    static std::map<std::string, AttentionCase> cases;
    static std::map<std::string, std::vector<float>> first;
    const std::string key = name_of(mask) + std::to_string(head_dim) + "/" + std::to_string(keys);
    const AttentionCase& problem = cases.try_emplace(key, mask, 1, 1, 1, queries, keys, head_dim).first->second;
    const BackwardResult result = run_backward(problem, {cuda::Type::float32, false, false, false}, implementation);
    std::string found = verdict(difference(result.dq, problem.dq), 8e-3, "dQ") +
                        verdict(difference(result.dk, problem.dk), 8e-3, "dK") +
                        verdict(difference(result.dv, problem.dv), 8e-3, "dV");
    const std::string fault = key + std::to_string(emulator::options.planted_fault);
    if (!same_bits(first.try_emplace(fault, result.dq).first->second, result.dq))
      found += "dQ differs between schedules";
    return found;
  };
}
std::string norm_rows() {  // several teams a block; a team of several warps that sums twice
  for (const std::int32_t columns : {64, 2048}) {
    const std::int64_t rows = 40;
    const bool layer = columns == 2048;
    const std::vector<float> x = random_float(rows * columns, 1), ones(columns, 1.0f), inverse(rows, 1.0f);
    const DeviceArray<float> d_x(x), weight(ones), dx(x.size()), dweight(columns), dbias(columns), d_inverse(inverse),
        mean(std::vector<float>(rows, 0.0f));
    const DeviceArray<char> workspace(device().norm_workspace(columns));
    const cuda::NormBackward call{rows,
                                  columns,
                                  layer,
                                  cuda::Type::float32,
                                  d_x.data(),
                                  weight.data(),
                                  d_x.data(),
                                  d_inverse.data(),
                                  mean.data(),
                                  nullptr,
                                  dx.data(),
                                  dweight.data(),
                                  dbias.data(),
                                  0,
                                  workspace.data(),
                                  0};
    succeed(device().norm_backward(&call, nullptr));
    std::vector<double> expected(columns, 0.0);
    for (std::size_t i = 0; i < x.size(); i++) expected[i % columns] += static_cast<double>(x[i]) * x[i];
    if (difference(dweight.values(), expected).relative > 1e-5) return "wrong dweight";
  }
  return "";
}
std::string sorted_embedding() {
  const std::int64_t tokens = 700;
  std::vector<std::int32_t> token(tokens);
  for (std::int64_t i = 0; i < tokens; i++) token[i] = static_cast<std::int32_t>(i * 37 % 90);
  const DeviceArray<std::int32_t> d_token(token);
  const DeviceArray<float> dout(std::vector<float>(tokens * 4, 1.0f)), dtable(std::vector<float>(90 * 4, 0.0f));
  const DeviceArray<char> workspace(device().embedding_workspace(tokens, 90));
  const cuda::EmbeddingGradient call{
      tokens, 4, 90, cuda::Type::float32, d_token.data(), dout.data(), dtable.data(), workspace.data()};
  succeed(device().embedding_gradient(&call, nullptr));
  float total = 0;
  for (const float x : dtable.values()) total += x;
  return total == tokens * 4 ? "" : "gradients lost";
}
std::string loss_rows() {
  const std::vector<float> logits = random_float(2 * 9000, 1, 3);
  const DeviceArray<float> d_logits(logits), loss(2), scale(std::vector<float>{1});
  const DeviceArray<std::int32_t> label(std::vector<std::int32_t>{8999, 3});
  const cuda::LossTile call{2, 9000, 9000,         cuda::Type::float32, d_logits.data(), label.data(),
                            1, 0,    scale.data(), loss.data()};
  succeed(device().loss_tile(&call, nullptr));
  double sum[2] = {};
  for (int i = 0; i < 18000; i++) sum[i / 9000] += std::exp(static_cast<double>(logits[i]));
  const std::vector<float> got = loss.values();
  return std::abs(got[0] - (std::log(sum[0]) - logits[8999])) < 1e-4 &&
                 std::abs(got[1] - (std::log(sum[1]) - logits[9000 + 3])) < 1e-4
             ? ""
             : "wrong loss";
}
std::string merged_partials() {
  const DeviceArray<float> out(std::vector<float>(32, 1.0f)), lse(std::vector<float>{0}),
      partial(std::vector<float>(32, 3.0f)), partial_lse(std::vector<float>{0});
  const cuda::SoftmaxMerge call{1, 1, 1, 32, out.data(), lse.data(), partial.data(), partial_lse.data(), nullptr};
  succeed(device().softmax_merge(&call, nullptr));
  return std::abs(lse.values()[0] - std::log(2.0f)) < 1e-5 ? "" : "wrong log-sum-exp";
}
std::string column_sums() {
  const std::vector<float> x = random_float(130 * 5, 1);
  const DeviceArray<float> d_x(x), out(5);
  const DeviceArray<char> workspace(device().column_sums_workspace(130, 5));
  const cuda::ColumnSums call{130,        5,          cuda::Type::float32, cuda::Type::float32,
                              d_x.data(), out.data(), workspace.data()};
  succeed(device().column_sums(&call, nullptr));
  std::vector<double> want(5, 0.0);
  for (std::size_t i = 0; i < x.size(); i++) want[i % 5] += x[i];
  return verdict(difference(out.values(), want), 1e-5, "sums");
}
std::string losses_in_place() {
  const std::vector<float> logits = random_float(2 * 900, 1, 3);
  const DeviceArray<float> d_logits(logits), loss(2);
  const DeviceArray<double> scale(std::vector<double>{1});
  const DeviceArray<std::int32_t> label(std::vector<std::int32_t>{899, 3});
  const cuda::LossRows call{2,
                            900,
                            900,
                            900,
                            d_logits.data(),
                            cuda::Type::float32,
                            d_logits.data(),
                            cuda::Type::float32,
                            label.data(),
                            1,
                            0,
                            scale.data(),
                            loss.data()};
  succeed(device().loss_rows(&call, nullptr));
  std::vector<double> want(2, 0.0);
  for (int i = 0; i < 1800; i++) want[i / 900] += std::exp(static_cast<double>(logits[i]));
  want[0] = std::log(want[0]) - logits[899], want[1] = std::log(want[1]) - logits[903];
  return verdict(difference(loss.values(), want), 1e-5, "loss");
}
std::string windowed_attention() {
  const int tokens = 9, d = 8;
  std::vector<std::int32_t> index(tokens);
  for (int i = 0; i < tokens; i++) index[i] = i;
  const DeviceArray<std::int32_t> d_index(index), start(std::vector<std::int32_t>(tokens, 0));
  const DeviceArray<float> q(random_float(tokens * d, 1)), k(std::vector<float>(tokens * d, 0.0f)), out(tokens * d),
      lse(tokens);
  cuda::GenericAttentionForward call{};
  call.problem = {
      1,        tokens,   tokens,  1, 1, d, 4, 1, 0, d_index.data(), start.data(), d_index.data(), cuda::Type::float32,
      q.data(), k.data(), q.data()};
  call.out_type = cuda::Type::float32, call.out = out.data(), call.log_sum_exp = lse.data();
  succeed(device().generic_attention_forward(&call, nullptr));
  return std::abs(lse.values()[8] - std::log(4.0f)) < 1e-5 ? "" : "wrong log-sum-exp";  // of four scores of 0
}
// SGD of three tensors, and their sums of squares.
std::string many_tensors() {
  const DeviceArray<float> x(std::vector<float>(9000, 2.0f)), gradient(std::vector<float>(9000, 1.0f));
  const DeviceArray<double> scalars(std::vector<double>{0.5, 1}), sums(3);
  std::vector<cuda::SquaresTensor> squares;
  cuda::OptimizerStep step{};
  std::vector<cuda::OptimizerTensor> rows;
  for (int i = 0; i < 3; i++) {
    squares.push_back({0, 3000, gradient.data() + 3000 * i, sums.data() + i, cuda::Type::float32, 0});
    rows.emplace_back();
    rows.back().count = 3000, rows.back().parameter = x.data() + 3000 * i;
    rows.back().gradient = gradient.data() + 3000 * i, rows.back().gradient_type = cuda::Type::float32;
    rows.back().weight_decay = i;
  }
  cuda::SquaresTable table{3, device().squares_blocks(squares.data(), 3), nullptr, nullptr};
  const DeviceArray<cuda::SquaresTensor> d_squares(squares);
  const DeviceArray<double> workspace(static_cast<std::size_t>(table.blocks));
  table.tensor = d_squares.data(), table.workspace = workspace.data();
  succeed(device().sums_of_squares(&table, nullptr));
  step.rule = cuda::OptimizerRule::sgd, step.tensors = 3, step.blocks = device().optimizer_blocks(rows.data(), 3);
  const DeviceArray<cuda::OptimizerTensor> d_rows(rows);
  step.tensor = d_rows.data(), step.coefficient = scalars.data(), step.learning_rate = scalars.data() + 1;
  succeed(device().optimizer_step(&step, nullptr));
  const std::vector<double> got = sums.values();
  const std::vector<float> parameter = x.values();
  for (int i = 0; i < 3; i++) {
    if (got[i] != 3000) return "wrong sum";
    for (int k = 0; k < 3000; k++)
      if (parameter[3000 * i + k] != 2 - 0.5f - 2 * i) return "wrong parameter";
  }
  return "";
}
// Back-to-back all-reduces of three ranks whose sums depend on their order.
std::string ordered_sums() {
  const int n = 3;
  Ranks ranks(n, 4096);
  std::vector<std::unique_ptr<DeviceArray<float>>> data;
  std::vector<std::vector<float>> sent;
  for (int round = 0; round < 4; round++)
    for (int rank = 0; rank < n; rank++) {
      sent.push_back(random_float(256, 10 * round + rank));
      data.push_back(std::make_unique<DeviceArray<float>>(sent.back()));
    }
  for (int rank = 0; rank < n; rank++)
    for (int round = 0; round < 4; round++)
      succeed(device().peer_all_reduce(&ranks.groups[rank], round + 1, data[round * n + rank]->data(), 256,
                                       ranks.streams[rank]));
  succeed(device().synchronize());
  for (int round = 0; round < 4; round++)
    for (int rank = 0; rank < n; rank++) {
      const std::vector<float> got = data[round * n + rank]->values();
      for (int i = 0; i < 256; i++)
        if (got[i] != sent[round * n][i] + sent[round * n + 1][i] + sent[round * n + 2][i]) return "wrong sum";
    }
  return "";
}

// Barriers that count on the device: what rank 0 writes before one, rank 1 reads after it, the second time as the
// first.
std::string counted_barriers() {
  Ranks ranks(2, 256);
  const DeviceArray<std::uint32_t> counters(std::vector<std::uint32_t>(2, 0));
  const DeviceArray<double> x(1), one(std::vector<double>{1}), seen(2);
  for (int rank = 0; rank < 2; rank++) ranks.groups[rank].counter = counters.data() + rank;
  for (int round = 0; round < 2; round++) {
    const auto barrier = [&] {
      for (int rank = 0; rank < 2; rank++) succeed(device().peer_barrier(&ranks.groups[rank], 0, ranks.streams[rank]));
    };
    const cuda::ScalarConstant write{round + 1.0, x.data()};
    const cuda::ScalarProduct read{x.data(), one.data(), seen.data() + round};
    succeed(device().scalar_constant(&write, ranks.streams[0]));
    barrier();
    succeed(device().scalar_product(&read, ranks.streams[1]));
    barrier();
  }
  succeed(device().synchronize());
  return seen.values() == std::vector<double>{1, 2} ? "" : "read too early";
}

struct Planted {
  PlantedFault fault;
  const char* name;
  Look look;
  int wave = 32;  // lanes in lock step that it takes
};
std::vector<Planted> all_faults() {
  const auto portable = cuda::Implementation::portable, hopper = cuda::Implementation::hopper;
  const Look forward64 = forward(portable, MaskKind::causal, 64, 167, 200);
  const Look backward64 = backward(portable, MaskKind::causal, 64, 101, 167);
  const Look forward_wgmma = forward(hopper, MaskKind::causal, 128, 131, 650);
  const Look backward_wgmma = backward(hopper, MaskKind::causal, 128, 331, 300);
#define PLANTED(fault, ...)    \
  Planted {                    \
    fault, #fault, __VA_ARGS__ \
  }
  return {PLANTED(mask_window_one_short, forward(portable, MaskKind::window, 64, 70, 70)),
          PLANTED(forward_barrier, forward64),
          PLANTED(forward_copy_wait, forward64),
          PLANTED(forward_row_stride, forward64),
          PLANTED(forward_mask, forward64),
          PLANTED(forward_tail_rows, forward64),
          PLANTED(forward_no_rescale, forward64),
          PLANTED(backward_barrier, backward64),
          PLANTED(backward_copy_wait, backward64),
          PLANTED(backward_row_stride, backward64),
          PLANTED(backward_mask, backward(portable, MaskKind::packed, 64, 101, 167)),
          PLANTED(backward_stage_overwritten, backward64),
          PLANTED(backward_no_delta, backward64),
          PLANTED(backward_part_lost, backward_parts),
          PLANTED(hopper_forward_no_release, forward_wgmma),
          PLANTED(hopper_forward_key_wait, forward_wgmma),
          PLANTED(hopper_forward_query_wait, forward_wgmma),
          PLANTED(hopper_forward_swizzle_step, forward_wgmma),
          PLANTED(hopper_forward_early_release, forward_wgmma),
          PLANTED(hopper_forward_wgmma_wait, forward_wgmma),
          PLANTED(hopper_forward_value_stride, forward_wgmma),
          PLANTED(hopper_forward_bytes_expected, forward_wgmma),
          PLANTED(hopper_forward_register_greed, forward_wgmma),
          PLANTED(hopper_forward_init_fence, forward_wgmma),
          PLANTED(hopper_forward_registers_reused, forward_wgmma),
          PLANTED(hopper_backward_proxy_fence, backward_wgmma),
          PLANTED(hopper_backward_barrier, backward_wgmma),
          PLANTED(hopper_backward_dq_overwritten, backward_wgmma),
          PLANTED(hopper_backward_half_barrier, backward_wgmma),
          PLANTED(hopper_backward_turns_ignored, backward(hopper, MaskKind::full, 64, 250, 380)),
          PLANTED(hopper_backward_mask, backward_wgmma),
          PLANTED(team_sum_barrier, norm_rows),
          PLANTED(norm_backward_turn_barrier, norm_rows),
          PLANTED(sort_scan_barrier, sorted_embedding),
          PLANTED(loss_tile_barrier, loss_rows),
          PLANTED(loss_tile_label_overwritten, loss_rows),
          PLANTED(softmax_merge_stale_statistics, merged_partials),
          PLANTED(peer_signal_missing, ordered_sums),
          PLANTED(peer_wait_missing, ordered_sums),
          PLANTED(peer_epoch_behind, ordered_sums),
          PLANTED(peer_sum_order, ordered_sums),
          PLANTED(peer_single_buffer, ordered_sums),
          PLANTED(peer_counter_stands, counted_barriers),
          PLANTED(column_sums_first_lost, column_sums),
          PLANTED(loss_rows_label_overwritten, losses_in_place),
          PLANTED(generic_attention_window, windowed_attention),
          PLANTED(table_boundary, many_tensors),
          PLANTED(optimizer_scalars_barrier, many_tensors),
          PLANTED(squares_partial_lost, many_tensors),
          PLANTED(wave_shuffle_width, forward(portable, MaskKind::causal, 64, 70, 70), 64),
          PLANTED(wave_ballot_low, places_by_votes, 64),
          PLANTED(wave_lane_chain, add_in_turn, 64),
          PLANTED(wave_barrier_in_arms, hand_over_between_warps, 64),
          PLANTED(wave_sync_in_arms, hand_over_in_a_warp, 64)};
#undef PLANTED
}

// How the fault shows under one schedule; "" when it does not.
std::string look_once(const Planted& planted, unsigned seed, bool race) {
  const emulator::Options before = emulator::options;
  emulator::options = {.seed = seed, .race = race, .resident = 3, .planted_fault = planted.fault, .wave = planted.wave};
  std::string found;
  try {
    found = planted.look();
  } catch (const std::exception& error) {
    found = error.what();
    emulator::discard_queues();
  }
  emulator::options = before;
  return found;
}
// What shows on waves of 64 lanes alone does not on warps of 32, in any of four schedules.
bool shows_on_warps(Planted planted) {
  if (planted.wave == 32) return false;
  planted.wave = 32;
  for (unsigned seed = 0; seed < 4; seed++)
    if (!look_once(planted, seed, true).empty()) return true;
  return false;
}

}  // namespace

TEST_CASE("all planted faults are found") {
  const std::vector<Planted> faults = all_faults();
  REQUIRE(faults.size() == last_fault - 1);
  for (const Planted& planted : faults) {
    INFO(planted.name);
    std::string found;
    for (unsigned seed = 0; seed < 4 && found.empty(); seed++) found = look_once(planted, seed, true);
    CHECK(found != "");
    CHECK(!shows_on_warps(planted));
    Planted healthy = planted;
    healthy.fault = no_fault;
    CHECK(look_once(healthy, 1, true) == "");
  }
}

TEST_CASE("how planted faults are found, and in how many schedules without the detector", "[slow]") {
  for (const Planted& planted : all_faults()) {
    INFO(planted.name);
    std::string found;
    for (unsigned seed = 0; seed < 4 && found.empty(); seed++) found = look_once(planted, seed, true);
    int without = 0;
    for (unsigned seed = 0; seed < 4; seed++) without += !look_once(planted, seed, false).empty();
    std::printf("%-32s %s\n%-32s without the detector: %d of 4 schedules\n", planted.name,
                found.empty() ? "NOT FOUND" : found.c_str(), "", without);
    CHECK(found != "");
  }
}

TEST_CASE("planted faults of the portable and generic kernels are found on waves of 64 lanes too") {
  for (Planted planted : all_faults()) {
    if (planted.wave == 64 || std::string(planted.name).starts_with("hopper_")) continue;
    INFO(planted.name);
    planted.wave = 64;
    std::string found;
    for (unsigned seed = 0; seed < 4 && found.empty(); seed++) found = look_once(planted, seed, true);
    INFO(found);
    // Copies are done when they return there.
    CHECK((found != "") == !std::string(planted.name).ends_with("_copy_wait"));
  }
}

TEST_CASE("no block waits for a later one: the reverse order is reported") {
  const AttentionCase problem(MaskKind::full, 1, 1, 1, 100, 300, 64);
  const emulator::Options before = emulator::options;
  emulator::options = {.reverse = true};
  std::string found;
  try {
    run_backward(problem, {}, cuda::Implementation::hopper);
  } catch (const std::exception& error) {
    found = error.what();
  }
  emulator::options = before;
  CHECK_THAT(found, Catch::Contains("DEADLOCK in block (2,0,0)") &&
                        Catch::Contains("a wait for another block at attention_backward_hopper.cuh:"));
}

}  // namespace longhaul::test
