// Files that the code determines: the JSON Schema and the tables of the documentation. A file that differs is written
// as it should be into the current folder; copy it over the committed one.
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <valijson/adapters/nlohmann_json_adapter.hpp>
#include <valijson/schema.hpp>
#include <valijson/schema_parser.hpp>
#include <valijson/validator.hpp>

#include "base/environment.h"
#include "base/error.h"
#include "base/json.h"
#include "model/flops.h"
#include "model/huggingface.h"
#include "model/parameters.h"

using namespace longhaul;
using nlohmann::json;

namespace {

const std::string begin_mark = "<!-- generated: begin -->\n", end_mark = "<!-- generated: end -->\n";

std::filesystem::path source(const std::string& name) {
  const auto here = std::filesystem::path(__FILE__).parent_path().parent_path().parent_path();
  return std::filesystem::path(environment("LONGHAUL_SOURCE", here.string())) / name;
}

void expect_file(const std::string& name, const std::string& expected) {
  if (read_text_file(source(name)) == expected) return;
  const auto file = std::filesystem::current_path() / source(name).filename();
  std::ofstream(file, std::ios::binary) << expected;
  FAIL_CHECK(name << " is not what the code says; copy " << file.string() << " over it");
}

std::string with_reference(const std::string& text, const std::string& reference) {
  const auto begin = text.find(begin_mark), end = text.find(end_mark);
  REQUIRE(begin != std::string::npos);
  REQUIRE(end != std::string::npos);
  return text.substr(0, begin + begin_mark.size()) + "\n" + reference + text.substr(end);
}

bool schema_accepts(const std::string& schema_text, const json& instance) {
  const json schema_json = json::parse(schema_text);
  valijson::Schema schema;
  valijson::SchemaParser parser;
  valijson::adapters::NlohmannJsonAdapter schema_adapter(schema_json), adapter(instance);
  parser.populateSchema(schema_adapter, schema);
  valijson::Validator validator;
  return validator.validate(schema, adapter, nullptr);
}

}  // namespace

TEST_CASE("the committed schema and documentation are what the field list says") {
  expect_file("configs/spec.schema.json", spec_schema());
  expect_file("docs/spec.md", with_reference(read_text_file(source("docs/spec.md")), spec_reference()));
}

namespace {

/// What a published configuration gives: "taken", or why it is not.
std::string outcome(const json& config) {
  try {
    parse_model(config.dump(), "config.json");
    return "taken";
  } catch (const Error& error) {
    std::string message = error.what();
    message = message.substr(0, message.find(". Supported are"));
    return "refused: " + message.substr(message.find(": ") + 2);
  }
}

}  // namespace

TEST_CASE("docs/models.md says what each published configuration gives, and most are taken") {
  std::istringstream lines(read_text_file(source("tests/model/published_configs.jsonl")));
  std::string table = "| configuration | model_type | what it gives |\n| --- | --- | --- |\n";
  // Experts, images, encoders, recurrence; of the others docs/models.md has the specs.
  const std::map<std::string, std::string> not_taken = {{"mixtral", "a mixture of experts"},
                                                        {"deepseek", "a mixture of experts"},
                                                        {"qwen2_moe", "a mixture of experts"},
                                                        {"minicpm", "num_experts is 8: mixtures of experts"},
                                                        {"deepseek_v2", "latent attention"},
                                                        {"llava", "reads images"},
                                                        {"phi3_v", "reads images"},
                                                        {"bert", "an encoder"},
                                                        {"rwkv5", "recurrent"},
                                                        {"baichuan", "normalises the weights"},
                                                        {"chatglm", "docs/models.md"},
                                                        {"gpt_bigcode", "docs/models.md"},
                                                        {"gptj", "docs/models.md"},
                                                        {"qwen", "docs/models.md"},
                                                        {"phi-msft", "published as \"phi\""}};
  int taken = 0, rows = 0;
  for (std::string line; std::getline(lines, line);) {
    const json row = json::parse(line);
    const std::string name = row["name"], type = row["config"]["model_type"], gives = outcome(row["config"]);
    INFO(name << ": " << gives);
    if (gives == "taken")
      ++taken;
    else if (const auto found = not_taken.find(type); found == not_taken.end())
      FAIL_CHECK("not expected to be refused");
    else
      CHECK(gives.find(found->second) != std::string::npos);
    table += fmt::format("| {} | `{}` | {} |\n", name, type, gives);
    ++rows;
  }
  CHECK(rows == 55);
  CHECK(taken == 40);
  expect_file("docs/models.md", with_reference(read_text_file(source("docs/models.md")), table));
}

TEST_CASE("the specs in docs/models.md are accepted") {
  const std::string text = read_text_file(source("docs/models.md"));
  int specs = 0;
  for (std::size_t at = text.find("```json\n"); at != std::string::npos; at = text.find("```json\n", at + 1), ++specs)
    spec_from_json(json::parse(text.substr(at + 8, text.find("```", at + 8) - at - 8)), "docs/models.md");
  CHECK(specs == 4);
}

TEST_CASE("the documentation names every parameter") {
  const std::string document = read_text_file(source("docs/spec.md"));
  TransformerSpec spec = load_model(source("configs/models/gpt2-124m.json")).spec;
  spec.tied_head = false;
  spec.layers[0].layer.mlp.gated = true;
  spec.layers[0].layer.attention.qk_norm = true;
  spec.layers[0].layer.norm_placement = NormPlacement::both;
  spec.head_bias = true;
  for (const Parameter& parameter : parameters(spec)) {
    std::string name = parameter.name;
    if (name.starts_with("layers.")) name = "layers.{i}" + name.substr(name.find('.', 7));
    const bool bias = name.ends_with(".bias") && name != "head.bias";
    if (bias) name = name.substr(0, name.size() - 5) + ".weight`, `.bias";
    INFO(name);
    CHECK(document.find("`" + name + "`") != std::string::npos);
  }
}

TEST_CASE("the schema accepts what the code accepts and refuses what it refuses") {
  const std::string schema = spec_schema();
  const json good = json::parse(read_text_file(source("configs/models/quickstart.json")));
  std::size_t accepted = 0, tried = 0;
  const auto agree = [&](const json& instance) {
    INFO(instance.dump());
    bool code_accepts = true;
    try {
      spec_from_json(instance, "model.json");
    } catch (const Error&) {
      code_accepts = false;
    }
    accepted += code_accepts;
    ++tried;
    CHECK(schema_accepts(schema, instance) == code_accepts);
  };
  const auto edited = [&](const std::string& pointer, const json& value) {
    json instance = good;
    instance[json::json_pointer(pointer)] = value;
    return instance;
  };
  agree(good);
  agree(edited("/layers/0/rope", nullptr));
  agree(edited("/layers/0/rope", {{"type", "linear"}, {"factor", 2}}));
  agree(edited("/layers/0/rope",
               {{"type", "llama3"}, {"factor", 2}, {"original_max_positions", 64}, {"low_frequency_factor", 1}}));
  agree(edited("/layers/0/rope", {{"type", "yarn"}, {"factor", 2.5}, {"original_max_positions", 64}}));
  agree(edited("/layers/0/attention/window", 12));
  agree(edited("/layers/0/norm_placement", "both"));
  agree(edited("/layers/0/branches", "parallel"));
  agree(edited("/layers/0/rope", {{"type", "dynamic"}, {"factor", 2}, {"original_max_positions", 64}}));
  const json factors = json::array({1, 1, 1.5, 1.5, 1.5, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3});
  agree(edited(
      "/layers/0/rope",
      {{"type", "longrope"}, {"original_max_positions", 64}, {"short_factors", factors}, {"long_factors", factors}}));
  CHECK(accepted == 10);
  agree(edited("/layers/0/rope", {{"type", "linear"}}));
  agree(edited("/layers/0/rope", {{"type", "default"}, {"factor", 2}}));
  agree(edited("/layers/0/rope/type", "none"));
  agree(edited("/layers/0/norm_placement", "behind"));
  agree(edited("/layers/0/branches", "serial"));
  agree(edited("/layers/0/rope", {{"type", "longrope"}, {"original_max_positions", 64}, {"short_factors", factors}}));
  agree(edited("/layers/0/attention/heads", 0));
  agree(edited("/layers/0/attention/soft_cap", -1));
  agree(edited("/layers/0/attention/scale", 0));
  agree(edited("/layers/0/mlp/activation", "tanh"));
  agree(edited("/layers/0/extra", 1));
  agree(edited("/layers", json::array()));
  agree(edited("/model_type", "llama"));
  agree(edited("/tied_head", 1));
  agree(edited("/hidden_size", "128"));
  CHECK(accepted == 10);
  // What the code writes out in full is a valid file too.
  for (const char* name : {"llama-3.1-8b", "gpt2-124m", "quickstart"})
    agree(json(spec_to_json(load_model(source(std::string("configs/models/") + name + ".json")).spec)));
  CHECK(accepted == 13);
}

TEST_CASE("the shipped models are what they are called") {
  const auto load = [](const std::string& name) { return load_model(source("configs/models/" + name + ".json")); };
  CHECK(parameter_count(load("llama-3.1-8b").spec) == 8030261248);
  CHECK(parameter_count(load("llama-3.1-70b").spec) == 70553706496);
  CHECK(parameter_count(load("gpt2-124m").spec) == 124439808);
  const LoadedModel quickstart = load("quickstart");
  CHECK(quickstart.family == "longhaul");
  CHECK(parameter_count(quickstart.spec) == Approx(1e6).epsilon(0.1));
  // 256 ends a document only in a vocabulary that holds it.
  CHECK(quickstart.spec.vocabulary == 257);
  CHECK(export_config(quickstart.spec, "longhaul", DType::float32).family == "llama");
  for (const char* name : {"llama-3.1-8b", "llama-3.1-70b", "gpt2-124m"})
    for (const std::string& note : load(name).notes) CHECK_THAT(note, Catch::Contains("defaults: "));
  // 6 x the matrices of Llama 3.1 8B, the input embedding left out.
  CHECK(flops_per_token(load("llama-3.1-8b").spec, 8192).matmul == 6.0 * (8030261248 - 128256.0 * 4096 - 65 * 4096));
}
