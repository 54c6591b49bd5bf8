// The optimizers' steps and the sums of squares, one tensor and many in a launch, against plain loops in double;
// messages packed by a table in device memory.
#include <catch2/catch.hpp>

#include "kernels/cuda/plain/pointwise.h"
#include "tests/gpu_emulator/device_under_test.h"

namespace longhaul::test {
namespace {

using cuda::OptimizerRule;

template <typename T>
constexpr cuda::Type type_of = sizeof(T) == 2 ? cuda::Type::bfloat16 : cuda::Type::float32;

// Values that bfloat16 holds, so that what is given rounds nowhere.
std::vector<float> given(std::int64_t count, unsigned seed) {
  return to_float(to_double(random_bfloat16(static_cast<std::size_t>(count), seed)));
}
template <typename T>
std::vector<T> as(const std::vector<float>& values) {
  return {values.begin(), values.end()};
}

// A tensor of an optimizer and its oracle.
template <typename M, typename G>
struct Tensor {
  std::vector<double> parameter, first, second, gradient;
  DeviceArray<float> d_parameter;
  DeviceArray<M> d_first, d_second;
  DeviceArray<G> d_gradient;
  DeviceArray<bfloat16> d_copy;
  double decay, scale;

  static std::vector<float> squares(std::int64_t count, unsigned seed) {
    std::vector<float> values = given(count, seed);
    for (float& value : values) value = std::abs(value);
    return values;
  }
  Tensor(std::int64_t count, unsigned seed, double with_decay)
      : parameter(to_double(given(count, seed))),
        first(to_double(given(count, seed + 1))),
        second(to_double(squares(count, seed + 2))),
        gradient(to_double(given(count, seed + 3))),
        d_parameter(to_float(parameter)),
        d_first(as<M>(to_float(first))),
        d_second(as<M>(to_float(second))),
        d_gradient(as<G>(to_float(gradient))),
        d_copy(static_cast<std::size_t>(count)),
        decay(with_decay),
        scale(0.5 + seed) {}

  cuda::OptimizerTensor row(OptimizerRule rule, bool moment, bool copies) const {
    cuda::OptimizerTensor t{};
    t.count = static_cast<std::int64_t>(parameter.size());
    t.parameter = d_parameter.data();
    if (moment) t.first_moment = d_first.data();
    if (rule == OptimizerRule::adamw) t.second_moment = d_second.data();
    t.gradient = d_gradient.data();
    if (copies) t.copy = d_copy.data();
    t.moment_type = type_of<M>, t.gradient_type = type_of<G>;
    t.weight_decay = decay, t.scale = scale;
    return t;
  }
  void expect(OptimizerRule rule, bool moment, bool nesterov) {
    const auto count = static_cast<std::int64_t>(parameter.size());
    if (rule == OptimizerRule::adamw)
      cuda::plain::adamw<double>(count, parameter.data(), first.data(), second.data(), gradient.data(), 0.5, 1e-2, 0.9,
                                 0.95, 1e-8, decay, 3);
    else if (rule == OptimizerRule::sgd)
      cuda::plain::sgd<double>(count, parameter.data(), moment ? first.data() : nullptr, gradient.data(), 0.5, 1e-2,
                               0.9, nesterov, decay);
    else if (rule == OptimizerRule::muon_momentum)
      cuda::plain::muon_momentum<double>(count, parameter.data(), first.data(), gradient.data(), 0.5, 0.9, nesterov);
    else
      cuda::plain::muon_step<double>(count, parameter.data(), gradient.data(), 1e-2, scale, decay);
  }
  void check(OptimizerRule rule, bool moment, bool copies) const {
    const double rounded = sizeof(M) == 2 ? 4e-3 : 1e-6;
    const std::vector<float> got = d_parameter.values();
    CHECK(difference(got, parameter).relative < 1e-6);
    if (moment) CHECK(difference(d_first.values(), first).relative < rounded);
    if (rule == OptimizerRule::adamw) CHECK(difference(d_second.values(), second).relative < rounded);
    if (copies) CHECK(same_bits(d_copy.values(), as<bfloat16>(got)));
  }
};

}  // namespace

TEMPLATE_TEST_CASE("steps of AdamW, SGD and Muon, of one tensor and of many in one launch", "",
                   (std::pair<float, float>), (std::pair<bfloat16, bfloat16>), (std::pair<bfloat16, float>)) {
  using M = typename TestType::first_type;
  using G = typename TestType::second_type;
  const DeviceArray<double> scalars(std::vector<double>{0.5, 1e-2, 3});
  struct Kind {
    OptimizerRule rule;
    bool moment, nesterov;
  };
  for (const Kind kind :
       {Kind{OptimizerRule::adamw, true, false}, Kind{OptimizerRule::sgd, false, false},
        Kind{OptimizerRule::sgd, true, false}, Kind{OptimizerRule::sgd, true, true},
        Kind{OptimizerRule::muon_momentum, true, false}, Kind{OptimizerRule::muon_momentum, true, true},
        Kind{OptimizerRule::muon_step, false, false}}) {
    INFO("rule " << static_cast<int>(kind.rule) << (kind.moment ? " with a moment" : "")
                 << (kind.nesterov ? ", nesterov" : ""));
    cuda::OptimizerStep call{};
    call.rule = kind.rule, call.nesterov = kind.nesterov;
    call.coefficient = scalars.data(), call.learning_rate = scalars.data() + 1, call.step = scalars.data() + 2;
    call.beta1 = 0.9, call.beta2 = 0.95, call.epsilon = 1e-8;
    std::vector<std::unique_ptr<Tensor<M, G>>> tensors;
    std::vector<cuda::OptimizerTensor> rows;
    // Less than a thread's share, more than a block's, and one that is empty.
    for (const std::int64_t count : {3, 1500, 0, 1024, 8, 301}) {
      const auto seed = static_cast<unsigned>(10 * tensors.size());
      tensors.push_back(std::make_unique<Tensor<M, G>>(count, seed, seed % 20 ? 0.1 : 0.0));
      rows.push_back(tensors.back()->row(kind.rule, kind.moment, seed % 20 == 0));
    }
    // The last by itself.
    call.one = rows.back();
    rows.pop_back();
    succeed(device().optimizer_step(&call, nullptr));
    call.tensors = static_cast<std::int32_t>(rows.size());
    call.blocks = device().optimizer_blocks(rows.data(), call.tensors);
    const DeviceArray<cuda::OptimizerTensor> table(rows);
    call.tensor = table.data();
    cuda::Counters before, after;
    succeed(device().counters(&before));
    succeed(device().optimizer_step(&call, nullptr));
    succeed(device().counters(&after));
    CHECK(after.launches - before.launches == 1);
    for (std::size_t i = 0; i < tensors.size(); i++) {
      INFO("tensor " << i);
      tensors[i]->expect(kind.rule, kind.moment, kind.nesterov);
      tensors[i]->check(kind.rule, kind.moment, i % 2 == 0);
    }
  }
  cuda::OptimizerStep none{};
  CHECK(device().optimizer_step(&none, nullptr) != 0);
  CHECK_THAT(device().last_error(), Catch::Contains("the coefficient is null"));
}

TEST_CASE("sums of squares of many tensors are to the bit those of each, in two launches") {
  std::vector<std::unique_ptr<DeviceArray<bfloat16>>> narrow;
  std::vector<std::unique_ptr<DeviceArray<float>>> wide;
  std::vector<cuda::SquaresTensor> rows;
  const std::vector<std::int64_t> counts = {5, 9000, 0, 70001, 1};
  const DeviceArray<double> results(2 * counts.size()), alone(1);
  for (const std::int64_t count : counts) {
    const auto n = static_cast<std::size_t>(count);
    narrow.push_back(std::make_unique<DeviceArray<bfloat16>>(random_bfloat16(n, 1)));
    wide.push_back(std::make_unique<DeviceArray<float>>(random_float(n, 2)));
    rows.push_back({0, count, narrow.back()->data(), results.data() + rows.size(), cuda::Type::bfloat16, 0});
    rows.push_back({0, count, wide.back()->data(), results.data() + rows.size(), cuda::Type::float32, 0});
  }
  cuda::SquaresTable call{};
  call.tensors = static_cast<std::int32_t>(rows.size());
  call.blocks = device().squares_blocks(rows.data(), call.tensors);
  const DeviceArray<cuda::SquaresTensor> table(rows);
  const DeviceArray<double> workspace(static_cast<std::size_t>(call.blocks));
  call.tensor = table.data(), call.workspace = workspace.data();
  cuda::Counters before, after;
  for_each_schedule(2, [&] {
    succeed(device().counters(&before));
    succeed(device().sums_of_squares(&call, nullptr));
    succeed(device().counters(&after));
    CHECK(after.launches - before.launches == 2);
    const std::vector<double> got = results.values();
    const DeviceArray<char> room(device().sum_of_squares_workspace());
    for (std::size_t i = 0; i < rows.size(); i++) {
      INFO("tensor " << i);
      succeed(device().sum_of_squares(rows[i].x, rows[i].type, rows[i].count, 0, alone.data(), room.data(), nullptr));
      CHECK(got[i] == alone.values()[0]);
    }
  });
}

TEST_CASE("a table of copies in device memory moves in one launch what copy_table moves") {
  const std::vector<float> from = random_float(4000, 1);
  const DeviceArray<float> d_from(from), to(2000), as_table(2000);
  std::vector<cuda::CopyEntry> entries, second;
  for (std::int64_t i = 0; i < 40; i++) {  // runs of 4, 8, ... bytes, of any alignment, and zeros
    const std::int64_t run = i % 8 + 1;
    entries.push_back(
        {i % 9 == 8 ? nullptr : d_from.data() + 3 * i, to.data() + 50 * i, {1, 5}, 4 * run, {0, 400}, {0, 40}});
    second.push_back(entries.back());
    second.back().to = as_table.data() + 50 * i;
  }
  const DeviceArray<cuda::CopyEntry> table(entries);
  cuda::Counters before, after;
  succeed(device().counters(&before));
  succeed(device().copy_entries(table.data(), 40, 5 * 32, nullptr));
  succeed(device().counters(&after));
  CHECK(after.launches - before.launches == 1);
  succeed(device().copy_table(second.data(), 40, nullptr));
  CHECK(same_bits(to.values(), as_table.values()));
}

}  // namespace longhaul::test
