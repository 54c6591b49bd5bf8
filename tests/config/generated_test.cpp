// Files that the code determines: the JSON Schema and the tables of the documentation. A file that differs is written
// as it should be into the current folder; copy it over the committed one.
#include <yaml-cpp/yaml.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <valijson/adapters/nlohmann_json_adapter.hpp>
#include <valijson/schema.hpp>
#include <valijson/schema_parser.hpp>
#include <valijson/validator.hpp>

#include "base/environment.h"
#include "base/error.h"
#include "base/json.h"
#include "config/experiment.h"

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

/// The text with what stands between the marks replaced.
std::string with_reference(const std::string& text, const std::string& reference) {
  const auto begin = text.find(begin_mark), end = text.find(end_mark);
  REQUIRE(begin != std::string::npos);
  REQUIRE(end != std::string::npos);
  return text.substr(0, begin + begin_mark.size()) + "\n" + reference + text.substr(end);
}

json to_json(const YAML::Node& node) {
  json result = node.IsMap() ? json::object() : node.IsSequence() ? json::array() : json();
  if (node.IsMap())
    for (const auto& entry : node) result[entry.first.Scalar()] = to_json(entry.second);
  else if (node.IsSequence())
    for (const auto& element : node) result.push_back(to_json(element));
  else if (node.IsScalar() && node.Tag() == "?" && json::accept(node.Scalar()))
    result = json::parse(node.Scalar());
  else if (node.IsScalar())
    result = node.Scalar();
  return result;
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

TEST_CASE("the committed schema and documentation are what the key table says") {
  expect_file("configs/experiment.schema.json", experiment_schema());
  expect_file("docs/experiment.md",
              with_reference(read_text_file(source("docs/experiment.md")), experiment_reference()));
}

TEST_CASE("the schema accepts what the code accepts and refuses what it refuses") {
  const std::string schema = experiment_schema();
  const std::vector<std::string> sections = {
      R"("training": {"steps": 5})",
      R"("training": {"steps": 0})",
      R"("training": {"steps": 1.5})",
      R"("training": {"steps": "5"})",
      R"("training": {"steps": null})",
      R"("training": {"stpes": 5})",
      R"("training": {"global_batch_size": "auto", "threads": 3})",
      R"("training": {"global_batch_size": "all"})",
      R"("training": {"steps": "auto"})",
      R"("training": {"gradient_dtype": "auto", "dtype": "bfloat16"})",
      R"("training": {"dtype": "auto"})",
      R"("training": {"dtype": "float16"})",
      R"("training": {"deterministic": "yes"})",
      R"("optimizer": {"betas": [0.9, 0.99], "lr": 1})",
      R"("optimizer": {"betas": [0.9, 1]})",
      R"("optimizer": {"betas": [0.9]})",
      R"("optimizer": {"weight_decay_exclude": "norm"})",
      R"("optimizer": {"weight_decay_exclude": ["*norm*"]})",
      R"("lr_scheduler": {"decay_ratio": null, "min_lr_factor": 1})",
      R"("lr_scheduler": {"decay_ratio": 1.5})",
      R"("data": {"files": "a.txt", "eos_token": -1})",
      R"("data": {"files": ["a.txt", "b.txt"], "eos_token": -2})",
      R"("data": {"files": ["a.txt", 3]})",
      R"("data": {"files": ""})",
      R"("parallelism": {"zero_stage": 3, "data": "auto"})",
      R"("parallelism": {"zero_stage": 4})",
      R"("parallelism": {"shard_group": 2, "keep_gathered": "step"})",
      R"("parallelism": {"shard_group": 0})",
      R"("parallelism": {"keep_gathered": "always"})",
      R"("activation_memory": {"mode": "recompute"})",
      R"("activation_memory": {"mode": "some"})",
      R"("activation_memory": {"budget": 1e9})",
      R"("activation_memory": {"budget": 0})",
      R"("activation_memory": {"offload": "on"})",
      R"("activation_memory": {"offload": "always"})",
      R"("device": {"host_memory": 12})",
      R"("device": {"host_memory": 0})",
      R"("device": {"memory": 1.5})",
      R"("device": {"memory": "auto"})",
      R"("device": {"memory": null})",
      R"("device": {"memory": 0})",
      R"("parallelism": {"sequence": 2, "token_order": "zigzag"})",
      R"("parallelism": {"sequence": {"ulysses": 2, "ring": 2}})",
      R"("parallelism": {"sequence": {"ulises": 2}})",
      R"("parallelism": {"sequence": {"ring": 0}})",
      R"("parallelism": {"sequence": {}})",
      R"("parallelism": {"sequence": "all"})",
      R"("parallelism": {"token_order": "random"})",
      R"("data": {"packing": {"mode": "documents"}})",
      R"("data": {"packing": {"mode": "best_fit", "long": "skip"}})",
      R"("data": {"packing": {"mode": "best_fit", "long": "drop"}})",
      R"("data": {"format": "jsonl", "tokenizer": "bytes", "chat_format": "llama-3", "train_on": "last"})",
      R"("data": {"chat_format": "alpaca"})",
      R"("data": {"packing": "documents"})",
      R"("data": {"packing": {"mode": 0}})",
      R"("validation": {"sets": {"a": "a.txt", "b": ["b", "c"], "c": {"files": "c", "format": "jsonl"}}})",
      R"("validation": {"sets": {}, "at_start": true})",
      R"("data": {"sources": {"a": {"files": "c", "weight": 0.5, "epochs": 2}, "b": "c"}})",
      R"("data": {"sources": {"a": {"files": "c", "weight": 0}}})",
      R"("data": {"format": "raw", "token_bytes": 4})",
      R"("data": {"format": "raw", "token_bytes": 3})",
      R"("validation": {"sets": ["a.txt"]})",
      R"("validation": {"sets": {"a b": "c"}})",
      R"("validation": {"sets": {"a": {"files": "c", "weight": 1}}})",
      R"("validation": {"sets": {"a": {"files": "c", "format": "csv"}}})",
      R"("validation": {"sets": {"a": {"files": "c", "format": "jsonl", "mask_prompt": "yes"}}})",
      R"("checkpoint": {"resume": "off"})",
      R"("checkpoint": {"resume": false})",
      R"("job": {"name": 7})",
      R"("job": {"name": ""})",
      R"("trainig": {})",
      R"("$schema": "x.json")",
  };
  std::size_t accepted = 0;
  for (const std::string& section : sections) {
    INFO(section);
    const std::string text = R"({"model": {"config": "m.json"}, )" + section + "}";
    bool code_accepts = true;
    try {
      parse_experiment(text, "/somewhere/run.json");
    } catch (const Error&) {
      code_accepts = false;
    }
    accepted += code_accepts;
    CHECK(schema_accepts(schema, json::parse(text)) == code_accepts);
  }
  CHECK(accepted == 26);
  CHECK_FALSE(schema_accepts(schema, json::parse(R"({"training": {}})")));  // model.config is missing
}

TEST_CASE("the quickstart loads, and the schema accepts it and every resolved experiment") {
  const auto file = source("configs/quickstart.yaml");
  const Experiment e = load_experiment(file);
  CHECK(e.parallelism.sequence == SequenceSplit{2, 1, 1});
  CHECK(e.training.seq_len == 1024);
  CHECK(e.model.config == source("configs/models/quickstart.json").lexically_normal());
  CHECK(e.data.files.at(0) == source("data/kjv-train.txt").lexically_normal());
  CHECK(e.job.folder == source("runs/quickstart").lexically_normal());
  CHECK(schema_accepts(experiment_schema(), to_json(YAML::Load(read_text_file(file)))));
  CHECK(schema_accepts(experiment_schema(), to_json(YAML::Load(to_yaml(e)))));
}
