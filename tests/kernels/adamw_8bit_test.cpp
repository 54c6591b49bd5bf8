#include "kernels/cpu/adamw_8bit.h"

#include <bit>
#include <limits>

#include "kernel_test.h"
#include "kernels/cpu/dynamic_map.h"

using namespace longhaul;
using namespace longhaul::cpu;
using namespace longhaul::cpu::test;

namespace {

struct State {
  explicit State(std::int64_t count)
      : parameter(static_cast<std::size_t>(count)),
        m_codes(parameter.size()),
        v_codes(parameter.size()),
        m_scales(static_cast<std::size_t>(moment_blocks(count))),
        v_scales(m_scales.size()) {
    for (std::size_t i = 0; i < parameter.size(); ++i)
      parameter[i] = static_cast<float>(static_cast<int>(i * 7919 % 2001) - 1000) / 1024;
  }
  std::vector<float> parameter;
  std::vector<std::uint8_t> m_codes, v_codes;
  std::vector<float> m_scales, v_scales;
  bool operator==(const State&) const = default;
};

std::vector<float> gradient_of(std::int64_t count, int step) {
  std::vector<float> gradient(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < gradient.size(); ++i)
    gradient[i] = std::ldexp(
        static_cast<float>(static_cast<int>((i * 104729 + static_cast<std::size_t>(step) * 7907) % 2003) - 1001),
        -10 - static_cast<int>((i * 31 + static_cast<std::size_t>(step)) % 12));
  return gradient;
}

const double coefficient = 1, rate = 0.05;

// Elements [begin, end), the first of which begins a block.
AdamW8Bit part(State& state, const std::vector<float>& gradient, const double& step, std::int64_t begin,
               std::int64_t end) {
  AdamW8Bit p{};
  p.step = {.type = DType::float32,
            .parameter = state.parameter.data() + begin,
            .m = nullptr,
            .v = nullptr,
            .gradient_type = DType::float32,
            .gradient = gradient.data() + begin,
            .count = end - begin,
            .coefficient = &coefficient,
            .learning_rate = &rate,
            .step = &step,
            .beta1 = 0.9,
            .beta2 = 0.95,
            .epsilon = 1e-8,
            .weight_decay = 0.1};
  p.m_codes = state.m_codes.data() + begin;
  p.v_codes = state.v_codes.data() + begin;
  p.m_scales = state.m_scales.data() + begin / moment_block;
  p.v_scales = state.v_scales.data() + begin / moment_block;
  return p;
}

// take(state, gradient, step), step by step.
template <typename Step>
State after_steps(std::int64_t count, int steps, Step&& take) {
  State state(count);
  for (int step = 1; step <= steps; ++step) {
    const std::vector<float> gradient = gradient_of(count, step);
    const double number = step;
    take(state, gradient, number);
  }
  return state;
}

// How far two states are apart: 0 for the same but for numbers near the middle of two of the map, which may become
// either, so that the next step follows.
int differences(const State& state, const State& wanted) {
  int flipped = 0, wrong = 0;
  for (std::size_t i = 0; i < state.parameter.size(); ++i) {
    const int m = std::abs(state.m_codes[i] - wanted.m_codes[i]), v = std::abs(state.v_codes[i] - wanted.v_codes[i]);
    const float off = std::abs(state.parameter[i] - wanted.parameter[i]) / (1 + std::abs(wanted.parameter[i]));
    flipped += m + v > 0 || !(off <= 1e-5F);
    wrong += m > 1 || v > 1 || !(off <= 1e-2F);
  }
  for (std::size_t block = 0; block < state.m_scales.size(); ++block) {
    wrong += !(std::abs(state.m_scales[block] - wanted.m_scales[block]) <= 1e-5F * wanted.m_scales[block]);
    wrong += !(std::abs(state.v_scales[block] - wanted.v_scales[block]) <= 1e-5F * wanted.v_scales[block]);
  }
  return wrong + std::max(0, flipped - static_cast<int>(state.parameter.size()) / 500);
}

}  // namespace

TEST_CASE("the code of a quotient is that of the nearest number of the dynamic map") {
  for (const bool is_signed : {true, false}) {
    const DynamicMap& map = DynamicMap::of(is_signed);
    CHECK(map[map.zero()] == 0);
    CHECK(map[255] == 1);
    std::vector<float> quotients = {0, 1, 1e-30F, 1e-7F, 0x1p-23F, 0x1p-22F};
    for (int code = 0; code < 256; ++code) {
      const float value = map[static_cast<std::uint8_t>(code)];
      if (code > 0) REQUIRE(value > map[static_cast<std::uint8_t>(code - 1)]);
      REQUIRE(map.nearest(value) == code);
      if (code == 0) continue;
      const float middle = (value + map[static_cast<std::uint8_t>(code - 1)]) / 2;
      for (const float near : {std::nextafter(middle, -2.0F), middle, std::nextafter(middle, 2.0F)})
        if (near >= 0) quotients.push_back(near);
    }
    for (int i = 0; i < 100000; ++i) quotients.push_back(std::ldexp(static_cast<float>(i % 1000) / 1000, -(i % 27)));
    for (const float quotient : quotients)
      for (const float one : {quotient, -quotient}) {
        if (one < 0 && !is_signed) continue;
        const std::uint8_t found = map.nearest(one), wanted = map.nearest_by_search(one);
        if (found == wanted) continue;
        // Where the middle of two floats is none: either is nearest.
        INFO(one << " is " << map[found] << " or " << map[wanted]);
        REQUIRE(std::abs(std::abs(one - map[found]) - std::abs(one - map[wanted])) <= std::abs(one) * 0x1p-22F);
      }
  }
}

TEST_CASE("a block keeps its largest number, zeros, and that something in it was not finite") {
  const DynamicMap& map = DynamicMap::of(true);
  std::vector<float> numbers(200), back(200);
  std::vector<std::uint8_t> codes(200);
  for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = std::ldexp(static_cast<float>(i) - 100, -40);
  float scale = encode_block(map, numbers.data(), 200, codes.data());
  CHECK(scale == 0x1p-40F * 100);
  decode_block(map, codes.data(), scale, 200, back.data());
  for (std::size_t i = 0; i < numbers.size(); ++i) REQUIRE(std::abs(back[i] - numbers[i]) <= 0.0071F * scale);
  CHECK(back[100] == 0);
  std::fill(numbers.begin(), numbers.end(), 0.0F);
  CHECK(encode_block(map, numbers.data(), 200, codes.data()) == 0);
  decode_block(map, codes.data(), 0, 200, back.data());
  CHECK(back == numbers);
  for (const float bad : {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::quiet_NaN()}) {
    numbers[7] = bad;
    scale = encode_block(map, numbers.data(), 200, codes.data());
    CHECK(std::isnan(scale));
    decode_block(map, codes.data(), scale, 200, back.data());
    CHECK(std::isnan(back[0]));
  }
}

TEST_CASE("adamw_8bit takes the reference's steps on every instruction set, by blocks that no split crosses") {
  ThreadPool one(1), three(3);
  for (const std::int64_t count : {std::int64_t{1}, std::int64_t{255}, std::int64_t{256}, std::int64_t{5000}}) {
    const State wanted = after_steps(count, 3, [&](State& state, const auto& gradient, const double& step) {
      reference::adamw_8bit(part(state, gradient, step, 0, count));
    });
    for (const VectorTable* table : all_tables()) {
      INFO(table->name << ", " << count << " elements");
      const State state = after_steps(count, 3, [&](State& s, const auto& gradient, const double& step) {
        adamw_8bit(one, part(s, gradient, step, 0, count), *table);
      });
      CHECK(differences(state, wanted) == 0);
      CHECK(state == after_steps(count, 3, [&](State& s, const auto& gradient, const double& step) {
              adamw_8bit(three, part(s, gradient, step, 0, count), *table);
            }));
      CHECK(state == after_steps(count, 3, [&](State& s, const auto& gradient, const double& step) {
              for (std::int64_t begin = 0; begin < count; begin += 3 * moment_block)
                adamw_8bit(one, part(s, gradient, step, begin, std::min(count, begin + 3 * moment_block)), *table);
            }));
    }
  }
}

TEST_CASE("faults of moments in 8 bits are seen") {
  ThreadPool one(1);
  const std::int64_t count = 5000;
  const auto after = [&](const std::function<void(State&, AdamW8Bit&)>& fault) {
    return after_steps(count, 3, [&](State& state, const auto& gradient, const double& step) {
      AdamW8Bit p = part(state, gradient, step, 0, count);
      fault(state, p);
      adamw_8bit(one, p);
    });
  };
  const State wanted = after([](State&, AdamW8Bit&) {});
  const std::pair<const char*, std::function<void(State&, AdamW8Bit&)>> faults[] = {
      {"the neighbour's scale",
       [](State& s, AdamW8Bit&) { std::rotate(s.v_scales.begin(), s.v_scales.begin() + 1, s.v_scales.end()); }},
      {"one map for both moments", [](State&, AdamW8Bit& p) { std::swap(p.m_codes, p.v_codes); }},
      {"a first moment that is forgotten",
       [](State& s, AdamW8Bit&) { std::fill(s.m_scales.begin(), s.m_scales.end(), 0.0F); }},
      {"codes one too high",
       [](State& s, AdamW8Bit&) {
         for (auto& code : s.m_codes) code = static_cast<std::uint8_t>(std::min(255, code + 1));
       }},
      {"the last block left out", [](State&, AdamW8Bit& p) { p.step.count -= 5000 % moment_block; }},
      {"no decay", [](State&, AdamW8Bit& p) { p.step.weight_decay = 0; }},
      {"another decay rate", [](State&, AdamW8Bit& p) { p.step.beta1 = 0.91; }},
  };
  for (const auto& [name, fault] : faults) {
    INFO(name);
    CHECK(differences(after(fault), wanted) > 0);
  }
}
