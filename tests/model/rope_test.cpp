// Expected values: transformers 5.23, its functions run in float64.
#include "model/rope.h"

#include <catch2/catch.hpp>
#include <map>

using namespace longhaul;

namespace {

RopeSpec rope(RopeKind kind, double theta, double factor = 1, std::int64_t original = 0) {
  RopeSpec spec;
  spec.kind = kind;
  spec.rotary_dim = 64;
  spec.theta = theta;
  spec.factor = factor;
  spec.original_max_positions = original;
  return spec;
}

void check(const RopeSpec& spec, double attention_factor, const std::map<std::size_t, double>& expected) {
  const RopeFrequencies frequencies = rope_frequencies(spec);
  REQUIRE(frequencies.inverse.size() == 32);
  CHECK(frequencies.attention_factor == Approx(attention_factor).epsilon(1e-14).margin(0));
  for (const auto& [index, value] : expected) {
    INFO("dimension " << index);
    CHECK(frequencies.inverse[index] == Approx(value).epsilon(1e-13).margin(0));
  }
}

}  // namespace

TEST_CASE("RoPE frequencies of every type are those of transformers") {
  check(rope(RopeKind::plain, 500000), 1,
        {{0, 1.0}, {1, 0.6636012376960885}, {9, 0.024955408670558694}, {31, 3.0138581521391708e-06}});
  check(rope(RopeKind::linear, 10000, 4), 1,
        {{0, 0.25}, {1, 0.18747355233311397}, {16, 0.0025}, {31, 3.33380358040831e-05}});
  check(rope(RopeKind::llama3, 500000, 8, 8192), 1,
        {{0, 1.0}, {9, 0.024955408670558694}, {16, 0.0005248461609929547}, {31, 3.7673226901739635e-07}});
  RopeSpec yarn = rope(RopeKind::yarn, 1e6, 4, 32768);
  yarn.attention_factor = yarn_attention_factor(4);
  check(yarn, 1.138629436111989,
        {{0, 1.0}, {5, 0.1154781984689458}, {16, 0.0005833333333333333}, {31, 3.84981631514873e-07}});
  RopeSpec other = rope(RopeKind::yarn, 10000, 40, 4096);
  other.beta_fast = 16;
  other.beta_slow = 2;
  other.truncate = false;
  other.attention_factor = yarn_attention_factor(40, 1.0, 0.707);
  check(other, 1.0857263992561355,
        {{1, 0.7498942093324559}, {9, 0.07498942093324558}, {16, 0.005790104962447107}, {31, 3.33380358040831e-06}});
}

TEST_CASE("without RoPE there are no frequencies, and yarn's factor is 1 without stretching") {
  CHECK(rope_frequencies(RopeSpec{}).inverse.empty());
  CHECK(yarn_attention_factor(1) == 1);
  CHECK(yarn_attention_factor(4, 1, 1) == 1);  // both given: the ratio, here inert
}
