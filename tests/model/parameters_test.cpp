#include <catch2/catch.hpp>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "model/flops.h"
#include "model/initialise.h"
#include "model/parameters.h"
#include "model/spec.h"

using namespace longhaul;

namespace {

TransformerSpec two_layers() {
  TransformerSpec spec;
  spec.vocabulary = 11;
  spec.hidden_size = 6;
  spec.max_positions = 16;
  LayerSpec layer;
  layer.attention.heads = 4;
  layer.attention.kv_heads = 2;
  layer.attention.head_dim = 8;
  layer.attention.scale = 1;
  layer.mlp.size = 10;
  spec.layers = {{2, layer}};
  return spec;
}

const Parameter* find(const std::vector<Parameter>& list, const std::string& name) {
  for (const Parameter& parameter : list)
    if (parameter.name == name) return &parameter;
  return nullptr;
}

using Shape = std::vector<std::int64_t>;

}  // namespace

TEST_CASE("parameters have the names and shapes that the graph expects") {
  TransformerSpec spec = two_layers();
  auto list = parameters(spec);
  CHECK(list.size() == 1 + 2 * 9 + 1 + 1);
  CHECK(list.front().name == "embedding.tokens");
  CHECK(find(list, "layers.1.attention.q.weight")->shape == Shape{4, 8, 6});
  CHECK(find(list, "layers.1.attention.k.weight")->shape == Shape{2, 8, 6});
  CHECK(find(list, "layers.0.attention.o.weight")->shape == Shape{6, 4, 8});
  CHECK(find(list, "layers.0.mlp.gate.weight")->shape == Shape{10, 6});
  CHECK(find(list, "layers.0.mlp.down.weight")->shape == Shape{6, 10});
  CHECK(find(list, "final_norm.weight")->initialisation == Initialisation::ones);
  CHECK(find(list, "head.weight")->shape == Shape{11, 6});
  CHECK(find(list, "head.weight")->standard_deviation == 0.02);
  CHECK(parameter_count(spec) == 2 * 66 + 2 * (192 + 96 + 96 + 192 + 180 + 12) + 6);

  auto& layer = spec.layers[0].layer;
  layer.attention.q_bias = layer.attention.o_bias = layer.attention.qk_norm = layer.mlp.bias = true;
  layer.norm.kind = NormKind::layer;
  layer.mlp.gated = false;
  spec.tied_head = spec.learned_positions = true;
  list = parameters(spec);
  CHECK_FALSE(find(list, "head.weight"));
  CHECK_FALSE(find(list, "layers.0.mlp.gate.weight"));
  CHECK_FALSE(find(list, "layers.0.attention.k.bias"));
  CHECK(find(list, "embedding.positions")->shape == Shape{16, 6});
  CHECK(find(list, "layers.0.attention.q.bias")->shape == Shape{4, 8});
  CHECK_FALSE(find(list, "layers.0.attention.q.bias")->matrix);
  CHECK(find(list, "layers.0.attention.q.bias")->initialisation == Initialisation::zeros);
  CHECK(find(list, "layers.1.attention.k_norm.weight")->shape == Shape{8});
  CHECK(find(list, "layers.1.mlp_norm.bias")->shape == Shape{6});
  CHECK(find(list, "layers.1.mlp.up.bias")->shape == Shape{10});
  CHECK_FALSE(find(list, "final_norm.bias"));
  std::set<std::string> names;
  for (const auto& parameter : list) names.insert(parameter.name);
  CHECK(names.size() == list.size());
}

TEST_CASE("the generator is Philox4x32-10") {
  using Words = std::array<std::uint32_t, 4>;
  CHECK(philox({0, 0, 0, 0}, {0, 0}) == Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  CHECK(philox({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}) ==
        Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  CHECK(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
        Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
  CHECK(name_hash("") == 0xcbf29ce484222325u);
  CHECK(name_hash("a") == 0xaf63dc4c8601ec8cu);
}

TEST_CASE("any part of a parameter is filled as the whole is") {
  const Parameter parameter{"layers.0.mlp.up.weight", {7, 9}, Initialisation::normal, 0.5, true};
  std::vector<double> whole(63), part(63);
  initialise(parameter, 3, 0, 63, whole.data());
  for (std::int64_t begin : {0, 1, 2, 31, 62, 63})
    for (std::int64_t end = begin; end <= 63; end += 5) {
      std::fill(part.begin(), part.end(), -99.0);
      initialise(parameter, 3, begin, end, part.data());
      for (std::int64_t i = begin; i < end; ++i)
        REQUIRE(part[static_cast<std::size_t>(i - begin)] == whole[static_cast<std::size_t>(i)]);
      if (end - begin < 63) REQUIRE(part[static_cast<std::size_t>(end - begin)] == -99.0);
    }
  CHECK(whole[5] == 0.5 * standard_normal(3, name_hash(parameter.name), 5));
  std::vector<float> single(63);
  initialise(parameter, 3, 0, 63, single.data());
  CHECK(single[7] == static_cast<float>(whole[7]));
  CHECK_THROWS_AS(initialise(parameter, 3, 0, 64, whole.data()), std::logic_error);
  CHECK_THROWS_AS(initialise(parameter, 3, 0, 64, whole.data(), 4), std::logic_error);

  // By several threads, of which each has an odd part.
  const Parameter large{.name = "large", .shape = {3, 33333}, .standard_deviation = 0.02};
  std::vector<double> by_one(99998), by_four(99998);
  initialise(large, 3, 1, 99999, by_one.data());
  initialise(large, 3, 1, 99999, by_four.data(), 4);
  CHECK(by_one == by_four);
}

TEST_CASE("the numbers are normal, and other seeds and names give others") {
  const std::int64_t n = 40000;
  Parameter parameter{"a", {n}, Initialisation::normal, 0.02, true};
  std::vector<double> values(n), other(n);
  initialise(parameter, 0, 0, n, values.data());
  double moments[5] = {};
  for (double value : values)
    for (int power = 1; power <= 4; ++power) moments[power] += std::pow(value / 0.02, power) / n;
  // Five standard errors of each moment: 1, 2, 15 and 96 are the variances of z, z^2, z^3 and z^4.
  const double root = std::sqrt(static_cast<double>(n));
  CHECK(std::abs(moments[1]) < 5 / root);
  CHECK(std::abs(moments[2] - 1) < 5 * std::sqrt(2) / root);
  CHECK(std::abs(moments[3]) < 5 * std::sqrt(15) / root);
  CHECK(std::abs(moments[4] - 3) < 5 * std::sqrt(96) / root);
  const auto correlation = [&] {
    double sum = 0;
    for (std::size_t i = 0; i < values.size(); ++i) sum += values[i] * other[i] / (0.02 * 0.02 * n);
    return std::abs(sum);
  };
  initialise(parameter, 1, 0, n, other.data());
  CHECK(correlation() < 5 / root);
  parameter.name = std::string("b");
  initialise(parameter, 0, 0, n, other.data());
  CHECK(correlation() < 5 / root);
  // Neighbours, which come from one block, are independent too.
  double sum = 0;
  for (std::size_t i = 0; i < values.size(); i += 2) sum += values[i] * values[i + 1] / (0.02 * 0.02 * n / 2);
  CHECK(std::abs(sum) < 5 * std::sqrt(2) / root);
}

TEST_CASE("FLOPs per token count projections, head and the keys that are visible") {
  TransformerSpec spec = two_layers();
  const FlopsPerToken flops = flops_per_token(spec, 16);
  CHECK(flops.matmul == 6 * (2 * (192 + 96 + 96 + 192 + 180) + 66));
  CHECK(flops.attention_full == 12 * 2 * 32 * 16);
  CHECK(flops.attention_causal == 12 * 2 * 32 * 8.5);
  CHECK(flops.causal() == flops.matmul + flops.attention_causal);
  spec.tied_head = true;
  CHECK(flops_per_token(spec, 16).matmul == flops.matmul);
  spec.layers[0].layer.attention.window = 3;
  double visible = 0;
  for (int q = 0; q < 16; ++q) visible += std::min(q + 1, 3) / 16.0;
  CHECK(mean_visible_keys(16, 3) == Approx(visible));
  CHECK(flops_per_token(spec, 16).attention_causal == Approx(12 * 2 * 32 * visible));
  CHECK(mean_visible_keys(16, 99) == 8.5);
}
