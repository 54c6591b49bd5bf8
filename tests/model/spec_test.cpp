#include "model/spec.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/json.h"

using namespace longhaul;
using Catch::Matchers::Contains;
using nlohmann::json;

namespace {

const char* const small = R"({
  "model_type": "longhaul", "vocabulary": 257, "hidden_size": 32, "max_positions": 64,
  "layers": [{"repeat": 3,
    "attention": {"heads": 4, "kv_heads": 2, "head_dim": 16},
    "rope": {"type": "default"}, "norm": {"type": "rms", "epsilon": 1e-5},
    "mlp": {"gated": true, "activation": "silu", "size": 48}}],
  "final_norm": {"type": "rms", "epsilon": 1e-5}})";

json edited(const std::string& pointer, const json& value) {
  json object = json::parse(small);
  object[json::json_pointer(pointer)] = value;
  return object;
}
std::string message(const json& object) {
  try {
    spec_from_json(object, "model.json");
  } catch (const Error& error) {
    return error.what();
  }
  return "accepted";
}

}  // namespace

TEST_CASE("a spec reads with its defaults and round-trips") {
  const TransformerSpec spec = spec_from_json(json::parse(small), "model.json");
  CHECK(spec.layer_count() == 3);
  const LayerSpec& layer = spec.layer(2);
  CHECK(layer.attention.scale == 0.25);
  CHECK(layer.rope.rotary_dim == 16);
  CHECK(layer.rope.theta == 10000);
  CHECK(layer.residual_multiplier == 1);
  CHECK_FALSE(spec.tied_head);
  CHECK(layer.attention.heads == 4);
  CHECK_THROWS_AS(spec.layer(3), std::logic_error);

  json full = edited("/layers/0/rope", {{"type", "yarn"}, {"factor", 4}, {"original_max_positions", 32}});
  full["layers"][0]["attention"]["window"] = 5;
  full["layers"][0]["attention"]["soft_cap"] = 50;
  full["layers"][0]["attention"]["scale"] = 0.1;
  full["layers"][0]["norm"] = {{"type", "layer"}, {"epsilon", 1e-6}};
  full["layers"].push_back(full["layers"][0]);
  full["layers"][1]["rope"] = nullptr;
  full["embedding_multiplier"] = 0.3;
  full["learned_positions"] = true;
  const TransformerSpec rich = spec_from_json(full, "model.json");
  CHECK(rich.layer(0).rope.attention_factor == Approx(0.1 * std::log(4.0) + 1).epsilon(1e-15));
  CHECK(rich.layer(5).rope.kind == RopeKind::none);
  CHECK(spec_from_json(json::parse(spec_text(rich)), "again") == rich);
  CHECK(spec_from_json(json::parse(spec_text(spec)), "again") == spec);
}

TEST_CASE("a spec that is wrong names the field, the value and what is supported") {
  CHECK_THAT(message(edited("/layers/0/attention/kv_heads", 3)),
             Contains("layers[0].attention.heads is 4") && Contains("which is 3"));
  CHECK_THAT(message(edited("/layers/0/attention/head", 3)),
             Contains("unknown field layers[0].attention.head") && Contains("heads, kv_heads"));
  CHECK_THAT(message(edited("/vocabluary", 3)), Contains("did you mean vocabulary?"));
  CHECK_THAT(message(edited("/vocabulary", "257")), Contains("vocabulary must be an integer") && Contains("\"257\""));
  CHECK_THAT(message(edited("/vocabulary", 0)), Contains("from 1 to"));
  CHECK_THAT(message(edited("/vocabulary", 1ull << 63)), Contains("from 1 to"));
  CHECK_THAT(message(edited("/hidden_size", 1.5)), Contains("hidden_size must be an integer"));
  CHECK_THAT(message(edited("/layers/0/mlp/activation", "swish")), Contains("silu, gelu, gelu_tanh, relu"));
  CHECK_THAT(message(edited("/layers/0/norm_placement", "behind")), Contains("one of pre, post, both"));
  CHECK_THAT(message(edited("/layers/0/rope/type", "ntk")),
             Contains("default, linear, llama3, yarn, dynamic, longrope"));
  json parallel = edited("/layers/0/norm_placement", "both");
  parallel["layers"][0]["branches"] = "parallel";
  CHECK_THAT(message(parallel), Contains("normalised before them only"));
  CHECK_THAT(message(edited("/layers/0/norm", {{"type", "layer"}, {"epsilon", 1e-5}, {"unit_offset", true}})),
             Contains("layers[0].norm.unit_offset"));
  CHECK_THAT(
      message(edited(
          "/layers/0/rope",
          {{"type", "longrope"}, {"original_max_positions", 64}, {"short_factors", {1, 2}}, {"long_factors", {1, 2}}})),
      Contains("layers[0].rope.short_factors has 2 numbers") && Contains("rotary_dim / 2, 8"));
  json growing = edited("/layers/0/rope/rotary_dim", 8);
  growing["layers"][0]["attention"]["position_growth"] = 0.1;
  CHECK_THAT(message(growing), Contains("position_growth is 0.1") && Contains("16"));
  CHECK_THAT(message(edited("/layers/0/rope/type", "linear")), Contains("layers[0].rope.factor is missing"));
  for (const char* type : {"linear", "dynamic", "yarn", "llama3"})
    CHECK_THAT(message(edited("/layers/0/rope", {{"type", type}, {"factor", 0}, {"original_max_positions", 64}})),
               Contains("layers[0].rope.factor must be") && Contains("above 0; it is 0"));
  CHECK_THAT(message(edited("/layers/0/rope/factor", 2)), Contains("unknown field layers[0].rope.factor"));
  CHECK_THAT(message(edited("/layers/0/rope/rotary_dim", 18)), Contains("at most attention.head_dim"));
  CHECK_THAT(message(edited("/layers/0/rope/rotary_dim", 7)), Contains("must be even"));
  CHECK_THAT(message(edited("/layers", json::array())), Contains("at least one object"));
  CHECK_THAT(message(edited("/layers/0/repeat", 5000)), Contains("from 1 to 4096"));
  json many = edited("/layers/0/repeat", 4096);
  many["layers"].push_back(many["layers"][0]);
  CHECK_THAT(message(many), Contains("8192 layers"));
  CHECK_THAT(message(edited("/final_norm", 3)), Contains("final_norm must be an object"));
  CHECK_THAT(message(edited("/initializer_range", -0.1)), Contains("of at least 0"));
  json missing = json::parse(small);
  missing["layers"][0].erase("mlp");
  CHECK_THAT(message(missing), Contains("layers[0].mlp is missing"));
  CHECK_THAT(message(json::array()), Contains("must be an object"));
  CHECK(message(edited("/$schema", "spec.schema.json")) == "accepted");
}

TEST_CASE("specs made in code are checked like those read") {
  TransformerSpec spec = spec_from_json(json::parse(small), "model.json");
  check_spec(spec, "here");
  spec.layers[0].layer.attention.heads = 5;
  CHECK_THROWS_WITH(check_spec(spec, "here"), Contains("here: layers[0].attention.heads is 5"));
}

TEST_CASE("equal neighbouring groups merge") {
  TransformerSpec spec = spec_from_json(json::parse(small), "model.json");
  spec.layers.push_back(spec.layers[0]);
  spec.layers.push_back(spec.layers[0]);
  spec.layers[2].layer.attention.window = 4;
  merge_equal_groups(spec);
  REQUIRE(spec.layers.size() == 2);
  CHECK(spec.layers[0].repeat == 6);
  CHECK(spec.layer(6).attention.window == 4);
}

TEST_CASE("JSON with duplicate keys or broken syntax is refused with its line") {
  CHECK_THROWS_WITH(parse_json("{\"a\": {\n\"b\": 1,\n\"b\": 2}}", "f.json"),
                    Contains("f.json:3") && Contains("\"b\""));
  CHECK_THROWS_WITH(parse_json("{\"a\":\n\n }", "f.json"), Contains("f.json:3"));
  CHECK_THROWS_WITH(parse_json("{\"a\": 1", "f.json"), Contains("not valid JSON"));
  CHECK_THROWS_WITH(parse_json("", "f.json"), Contains("not valid JSON"));
  CHECK_THROWS_WITH(parse_json("{} {}", "f.json"), Contains("not valid JSON"));
  CHECK_THROWS_WITH(parse_json(std::string(100, '['), "f.json"), Contains("deeper"));
  JsonLines lines;
  const json object = parse_json("{\"a\": [\n{\"b/c\": 1}, {\n\"b/c\": [1, 2]}]}", "f.json", &lines);
  CHECK(object == json::parse("{\"a\": [{\"b/c\": 1}, {\"b/c\": [1, 2]}]}"));
  CHECK(lines["/a/0/b~1c"] == 2);
  CHECK(lines["/a/1/b~1c"] == 3);
}
