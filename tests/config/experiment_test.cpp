#include "config/experiment.h"

#include <catch2/catch.hpp>
#include <filesystem>

#include "base/error.h"

using namespace longhaul;
using Catch::Matchers::Contains;

namespace {

const std::string minimal = "model: {config: m.json}\n";

Experiment yaml(const std::string& text, const std::vector<std::string>& overrides = {}) {
  return parse_experiment(text, "/somewhere/run.yaml", overrides);
}
std::string message(const std::string& text, const std::vector<std::string>& overrides = {},
                    const std::string& file = "/somewhere/run.yaml") {
  try {
    parse_experiment(text, file, overrides);
  } catch (const Error& error) {
    return error.what();
  }
  return "accepted";
}

}  // namespace

TEST_CASE("defaults hold where the file is silent") {
  const Experiment e = yaml(minimal);
  CHECK(e.training.seq_len == 1024);
  CHECK(e.training.dtype == DType::float32);
  CHECK_FALSE(e.training.global_batch_size);
  CHECK(e.optimizer.betas == std::array{0.9, 0.95});
  CHECK(e.optimizer.eps == 1e-8);
  CHECK(e.checkpoint.resume == ResumeMode::automatic);
  CHECK(e.job.name == "run");
  CHECK(e.job.folder == "/somewhere/runs/run");
  CHECK(e.model.config == "/somewhere/m.json");
  CHECK(e.model.weights.empty());
}

TEST_CASE("every kind of value is read from YAML and from JSON alike") {
  const Experiment from_yaml = yaml(R"(
job: {name: "trial 1", folder: ../out/}
model: {config: m.json, weights: /w/model.safetensors, init_seed: 7}
data:
  files: [a.txt, sub/b.txt]
  format: megatron
  eos_token: 256
  validation_files: v.txt
training: {seq_len: 4096, micro_batch_size: 2, global_batch_size: 8, steps: 50, max_norm: 0, seed: 3,
           dtype: bfloat16, gradient_dtype: float32, gradient_reduce_dtype: bfloat16, threads: 2, matmul: openblas,
           deterministic: false}
optimizer: {lr: 1e-3, betas: [0.8, .9], eps: 1e-6, weight_decay: 0, weight_decay_exclude: []}
lr_scheduler: {warmup_steps: 5, decay_type: wsd, decay_ratio: 0.2, min_lr_factor: 0.1}
parallelism: {data: 2, sequence: auto, zero_stage: 3}
checkpoint: {interval: 10, keep_latest_k: 0, resume: off}
device: {type: cuda}
)");
  const Experiment from_json = parse_experiment(R"({
"job": {"name": "trial 1", "folder": "../out/"},
"model": {"config": "m.json", "weights": "/w/model.safetensors", "init_seed": 7},
"data": {"files": ["a.txt", "sub/b.txt"], "format": "megatron", "eos_token": 256, "validation_files": "v.txt"},
"training": {"seq_len": 4096, "micro_batch_size": 2, "global_batch_size": 8, "steps": 50, "max_norm": 0, "seed": 3,
  "dtype": "bfloat16", "gradient_dtype": "float32", "gradient_reduce_dtype": "bfloat16", "threads": 2,
  "matmul": "openblas", "deterministic": false},
"optimizer": {"lr": 0.001, "betas": [0.8, 0.9], "eps": 1e-6, "weight_decay": 0, "weight_decay_exclude": []},
"lr_scheduler": {"warmup_steps": 5, "decay_type": "wsd", "decay_ratio": 0.2, "min_lr_factor": 0.1},
"parallelism": {"data": 2, "sequence": "auto", "zero_stage": 3},
"checkpoint": {"interval": 10, "keep_latest_k": 0, "resume": "off"},
"device": {"type": "cuda"}})",
                                                "/somewhere/run.json");
  CHECK(from_yaml == from_json);
  CHECK(from_yaml.job.folder == "/out");
  CHECK(from_yaml.data.files == std::vector<std::filesystem::path>{"/somewhere/a.txt", "/somewhere/sub/b.txt"});
  CHECK(from_yaml.data.validation_files == std::vector<std::filesystem::path>{"/somewhere/v.txt"});
  CHECK(from_yaml.training.dtype == DType::bfloat16);
  CHECK(from_yaml.training.gradient_reduce_dtype == DType::bfloat16);
  CHECK(from_yaml.checkpoint.resume == ResumeMode::off);
  CHECK(from_yaml.parallelism.data == 2);
  CHECK_FALSE(from_yaml.parallelism.sequence);

  SECTION("the resolved experiment reads back as itself, also from another folder") {
    const Experiment again = parse_experiment(to_yaml(from_yaml), "/elsewhere/resolved.yaml");
    CHECK(again == from_yaml);
    CHECK(to_yaml(again) == to_yaml(from_yaml));
    const Experiment defaults = yaml(minimal);
    CHECK(parse_experiment(to_yaml(defaults), "/elsewhere/resolved.yaml") == defaults);
  }
  CHECK(value_of(from_yaml, "optimizer.lr") == "0.001");
  CHECK(value_of(from_yaml, "checkpoint.resume") == "\"off\"");
}

TEST_CASE("overrides win over the file, the last over the first, in both spellings") {
  const std::string text = minimal + "training: {steps: 5, seq_len: 8}\n";
  const Experiment e = yaml(text, {"training.steps=6", "--training.steps=7", "optimizer.betas=[0.5, 0.6]",
                                   "parallelism.sequence=auto", "data.files=[x.txt]", "model.weights=null"});
  CHECK(e.training.steps == 7);
  CHECK(e.training.seq_len == 8);
  CHECK(e.optimizer.betas == std::array{0.5, 0.6});
  CHECK(e.data.files.at(0) == std::filesystem::current_path() / "x.txt");
  CHECK_THAT(message(minimal, {"training.stesp=6"}), Contains("unknown key") && Contains("training.steps"));
  CHECK_THAT(message(minimal, {"steps=6"}), Contains("did you mean") && Contains("training.steps"));
  CHECK_THAT(message(minimal, {"training.steps"}), Contains("section.key=value"));
  CHECK_THAT(message(minimal, {"training.steps=many"}), Contains("training.steps") && Contains("\"many\""));
  CHECK_THAT(message(minimal, {"training.steps=[1"}), Contains("not valid YAML"));
}

TEST_CASE("unknown and duplicate keys are refused with their line and the nearest name") {
  CHECK_THAT(message(minimal + "training:\n  stpes: 3\n"),
             Contains("run.yaml:3") && Contains("training.stpes") && Contains("did you mean training.steps?"));
  CHECK_THAT(message(minimal + "training:\n  lr: 3\n"), Contains("did you mean optimizer.lr?"));
  CHECK_THAT(message(minimal + "trainin:\n  steps: 3\n"), Contains("unknown section trainin") && Contains("training?"));
  CHECK_THAT(message(minimal + "trainin:\n"), Contains("unknown section trainin"));
  CHECK_THAT(message(minimal + "training:\n  steps: 3\n  seq_len: 4\n  steps: 3\n"),
             Contains("run.yaml:5") && Contains("training.steps stands twice"));
  CHECK_THAT(message(minimal + "metrics:\nmodel: {config: b}\n"),
             Contains("run.yaml:3") && Contains("model stands twice"));
  const std::string json_file = "/somewhere/run.json";
  CHECK_THAT(message("{\"model\": {\"config\": \"m\"},\n\"training\": {\n\"stpes\": 3}}", {}, json_file),
             Contains("run.json:3") && Contains("did you mean training.steps?"));
  CHECK_THAT(message("{\"model\": {\"config\": \"m\"},\n\"training\": {\"steps\": 3,\n\"steps\": 4}}", {}, json_file),
             Contains("run.json:3") && Contains("\"steps\" stands twice"));
  CHECK_THAT(message("{\"model\": {\"config\": \"m\"},\n \"model\": {}}", {}, json_file), Contains("run.json:2"));
}

TEST_CASE("wrong types name the key, the value and what is allowed") {
  const auto refuses = [](const std::string& section, const std::string& line, const std::string& key,
                          const std::string& value, const std::string& allowed) {
    INFO(section << ": " << line);
    const std::string text = message((section == "model" ? "" : minimal) + section + ":\n  " + line + "\n");
    CHECK_THAT(text, Contains(key) && Contains(value) && Contains(allowed));
  };
  refuses("training", "steps: 0", "training.steps", "0", "from 1 to");
  refuses("training", "steps: 1.5", "training.steps", "1.5", "an integer");
  refuses("training", "steps: 1e3", "training.steps", "1e3", "without point or exponent");
  refuses("training", "steps: '5'", "training.steps", "\"5\"", "an integer");
  refuses("training", "steps:", "training.steps", "null", "an integer");
  refuses("training", "steps: [1, 2]", "training.steps", "[1, 2]", "an integer");
  refuses("training", "steps: {a: 1}", "training.steps", "a mapping", "an integer");
  refuses("training", "steps: 99999999999999999999", "training.steps", "99999999999999999999", "an integer");
  refuses("training", "seq_len: -1", "training.seq_len", "-1", "from 1 to");
  refuses("training", "dtype: fp16", "training.dtype", "fp16", "float64, float32, bfloat16");
  refuses("training", "deterministic: yes", "training.deterministic", "yes", "true or false");
  refuses("training", "global_batch_size: all", "training.global_batch_size", "all", "or auto");
  refuses("optimizer", "betas: [0.9, 1.0]", "optimizer.betas", "[0.9, 1.0]", "[0, 1)");
  refuses("optimizer", "betas: 0.9", "optimizer.betas", "0.9", "two numbers");
  refuses("optimizer", "betas: [0.9]", "optimizer.betas", "[0.9]", "two numbers");
  refuses("optimizer", "lr: .nan", "optimizer.lr", ".nan", "a number");
  refuses("optimizer", "lr: 1e999", "optimizer.lr", "1e999", "a number");
  refuses("optimizer", "name: lion", "optimizer.name", "lion", "adamw");
  refuses("parallelism", "zero_stage: 4", "parallelism.zero_stage", "4", "from 0 to 3, or auto");
  refuses("checkpoint", "resume: yes", "checkpoint.resume", "yes", "one of auto, off");
  refuses("data", "files: [[a]]", "data.files", "a list", "list of paths");
  refuses("data", "files: ''", "data.files", "empty", "list of paths");
  refuses("model", "config: 7", "model.config", "7", "quotes");
}

TEST_CASE("impossible combinations are refused") {
  CHECK_THAT(message("training: {steps: 3}\n"), Contains("model.config is missing"));
  CHECK_THAT(message(""), Contains("model.config is missing"));
  CHECK_THAT(
      message(minimal + "training: {micro_batch_size: 3, global_batch_size: 8}"),
      Contains("training.global_batch_size is 8") && Contains("multiple of training.micro_batch_size, which is 3"));
  CHECK_THAT(message(minimal + "training: {micro_batch_size: 4, global_batch_size: 8}\nparallelism: {data: 3}"),
             Contains("4 x 3 = 12"));
  CHECK_THAT(message(minimal + "data: {train_on: all}"), Contains("data.train_on is all") && Contains("jsonl"));
  CHECK_THAT(message(minimal + "data: {format: llmc, chat_format: gemma}"), Contains("data.chat_format is gemma"));
  CHECK(message(minimal + "data: {format: jsonl, train_on: all, chat_format: gemma}") == "accepted");
  CHECK_THAT(message(minimal + "lr_scheduler: {decay_type: wsd}"), Contains("needs lr_scheduler.decay_ratio"));
  CHECK_THAT(message(minimal + "lr_scheduler: {decay_type: constant, decay_ratio: 0.1}"), Contains("does not decay"));
  CHECK_THAT(message(minimal + "training: {gradient_dtype: float64}"), Contains("reference runs"));
  CHECK_THAT(message(minimal + "training: {dtype: float64, gradient_reduce_dtype: bfloat16}"),
             Contains("gradient_reduce_dtype is bfloat16"));
  CHECK_THAT(message(minimal + "job: {name: a/b}"), Contains("job.folder"));
  CHECK_THAT(message(minimal + "device: {graphs: true}"),
             Contains("device.graphs is true, but device.type is cpu") && Contains("device.graphs false"));
  CHECK(message(minimal + "device: {type: emulator, graphs: true}") == "accepted");
  CHECK_THAT(message(minimal + "device: {collectives: push}"),
             Contains("device.collectives is push, but device.type is cpu") && Contains("device.collectives auto"));
  CHECK(message(minimal + "device: {type: emulator, collectives: push}") == "accepted");
  Experiment changed = yaml(minimal);
  changed.optimizer.betas[1] = 1;
  CHECK_THROWS_WITH(check_experiment(changed), Contains("optimizer.betas"));
}

TEST_CASE("validation sets have names, files and what is theirs") {
  const Experiment e =
      yaml(minimal +
           "validation:\n  sets:\n    books: books.jsonl\n    code: {files: [a.bin, \"b/*.bin\"], format: "
           "llmc}\n    chats: {files: c, format: jsonl, mask_prompt: true, train_on: last}\n");
  REQUIRE(e.validation.sets.size() == 3);
  CHECK(e.validation.sets[0].name == "books");
  CHECK(e.validation.sets[0].files == std::vector<std::filesystem::path>{"/somewhere/books.jsonl"});
  CHECK(e.validation.sets[0].format == "");
  CHECK(e.validation.sets[1].files.size() == 2);
  CHECK(e.validation.sets[1].format == "llmc");
  CHECK(e.validation.sets[2].mask_prompt == true);
  CHECK(e.validation.sets[2].train_on == TrainOn::last);
  CHECK(validates(e));
  CHECK(yaml(to_yaml(e)) == e);
  CHECK(parse_experiment(to_yaml(e), "/elsewhere/run.yaml") == e);
  const std::string as_json = R"({"model": {"config": "m.json"}, "validation": {"sets": {"books": "books.jsonl", "code":
    {"files": ["a.bin", "b/*.bin"], "format": "llmc"}, "chats": {"files": "c", "format": "jsonl", "mask_prompt": true,
    "train_on": "last"}}}})";
  CHECK(parse_experiment(as_json, "/somewhere/run.json").validation.sets.size() == 3);
  const Experiment changed = yaml(
      minimal + "validation: {sets: {books: b.jsonl}}\n",
      {"validation.sets.books.format=jsonl", "validation.sets.more={files: m.txt}", "validation.sets.books.files=c"});
  CHECK(changed.validation.sets[0].format == "jsonl");
  CHECK(changed.validation.sets[0].files.at(0) == std::filesystem::current_path() / "c");
  CHECK(changed.validation.sets[1].files.at(0) == std::filesystem::current_path() / "m.txt");
  // Where they lie is no difference between ranks, what they are is.
  for (const auto& [key, value] : values_without_paths(changed))
    if (key == "validation.sets") CHECK_THAT(value, Contains("format: jsonl") && !Contains("m.txt"));

  const auto refused = [](const std::string& sets) { return message(minimal + "validation: {sets: " + sets + "}\n"); };
  CHECK_THAT(refused("[a]"), Contains("validation.sets must be a mapping of names"));
  CHECK_THAT(refused("{\"a b\": c}"), Contains("letters, digits"));
  CHECK_THAT(refused("{a: {file: c}}"), Contains("validation.sets.a has no 'file' (did you mean files?)"));
  CHECK_THAT(refused("{a: {files: c, weight: 2}}"), Contains("validation.sets.a has no 'weight'"));
  CHECK_THAT(refused("{a: {files: c, format: parquet}}"), Contains("validation.sets.a.format must be one of"));
  CHECK_THAT(refused("{a: {format: llmc}}"), Contains("validation.sets.a names no files"));
  CHECK_THAT(refused("{a: {files: c, format: llmc, mask_prompt: true}}"), Contains("no prompts"));
  CHECK_THAT(refused("{a: {files: c, files: d}}"), Contains("stands twice"));
  CHECK_THAT(refused("{a: c, a: d}"), Contains("stands twice"));
  CHECK_THAT(refused("{a: 3}"), Contains("validation.sets.a.files"));
}

TEST_CASE("files that are no experiment are refused") {
  CHECK_THAT(message("- a\n"), Contains("mapping of sections"));
  CHECK_THAT(message("model: {config: a\xff.json}\n"), Contains("model.config") && Contains("not UTF-8"));
  CHECK_THAT(message("model: 3\n"), Contains("run.yaml:1") && Contains("section"));
  CHECK_THAT(message("model: {config: [\n"), Contains("not valid YAML") && Contains("run.yaml:"));
  CHECK_THAT(message(minimal + "---\n" + minimal), Contains("more than one YAML document"));
  CHECK_THAT(message("{\"model\":\n {\"config\": }}", {}, "/somewhere/run.json"),
             Contains("run.json:2") && Contains("not valid JSON"));
  CHECK_THAT(message("[]", {}, "/somewhere/run.json"), Contains("object of sections"));
  CHECK_THAT(message(minimal, {}, "/somewhere/run.toml"), Contains(".yaml, .yml or .json"));
  CHECK_THROWS_WITH(load_experiment("/nowhere/at/all.yaml"), Contains("no such file"));
}

TEST_CASE("auto dtypes follow the run's dtype") {
  CHECK(gradient_reduce_dtype_of(yaml(minimal)) == DType::float32);
  CHECK(gradient_dtype_of(yaml(minimal + "training: {dtype: float64}")) == DType::float64);
  const Experiment e = yaml(minimal + "training: {gradient_dtype: bfloat16}");
  CHECK(gradient_reduce_dtype_of(e) == DType::bfloat16);
}

TEST_CASE("weight decay leaves out the patterns of weight_decay_exclude") {
  const Experiment e = yaml(minimal);
  CHECK(decays(e, "layers.0.attention.q.weight"));
  CHECK(decays(e, "embedding.tokens"));
  CHECK_FALSE(decays(e, "layers.0.attention_norm.weight"));
  CHECK_FALSE(decays(e, "layers.0.attention.q.bias"));
  CHECK(decays(yaml(minimal + "optimizer: {weight_decay_exclude: []}"), "final_norm.weight"));
  CHECK(matches_pattern("a*c*e", "abcde"));
  CHECK(matches_pattern("*", ""));
  CHECK_FALSE(matches_pattern("a?c", "ac"));
  CHECK_FALSE(matches_pattern("a*c", "acb"));
}

TEST_CASE("parallelism.sequence is a number, a mapping or auto, and prints as it is read") {
  const auto sequence = [](const std::string& value, const std::vector<std::string>& overrides = {}) {
    return yaml(minimal + "parallelism: {sequence: " + value + "}", overrides).parallelism.sequence;
  };
  CHECK(sequence("4") == SequenceSplit{4, 1, 1});
  CHECK(sequence("{ulysses: 2, ring: 3}") == SequenceSplit{2, 3, 1});
  CHECK(sequence("{gather_kv: 2}") == SequenceSplit{1, 1, 2});
  CHECK_FALSE(sequence("auto"));
  CHECK(sequence("4", {"parallelism.sequence={ulysses: 2, ring: 2}"}) == SequenceSplit{2, 2, 1});
  CHECK(sequence("4", {"parallelism.sequence.ring=2"}) == SequenceSplit{4, 2, 1});
  CHECK(sequence("auto", {"parallelism.sequence.gather_kv=2"}) == SequenceSplit{1, 1, 2});
  CHECK(sequence("{ring: 4}", {"--parallelism.sequence.ring=1", "parallelism.sequence.ulysses=2"}) ==
        SequenceSplit{2, 1, 1});
  CHECK_FALSE(sequence("{ring: 4}", {"parallelism.sequence=auto"}));
  for (const auto& [text, printed] : {std::pair{"4", "4"},
                                      {"{ulysses: 4}", "4"},
                                      {"{ring: 1}", "1"},
                                      {"{ring: 3, ulysses: 2}", "{ulysses: 2, ring: 3}"},
                                      {"{ring: 2}", "{ring: 2}"},
                                      {"{ulysses: 2, gather_kv: 2}", "{ulysses: 2, gather_kv: 2}"},
                                      {"auto", "auto"}}) {
    const Experiment e = yaml(minimal + "parallelism: {sequence: " + text + "}");
    CHECK(value_of(e, "parallelism.sequence") == printed);
    CHECK(parse_experiment(to_yaml(e), "/elsewhere/resolved.yaml") == e);
  }
  CHECK(parse_experiment(R"({"model": {"config": "m.json"}, "parallelism": {"sequence": {"ulysses": 2, "ring": 3}}})",
                         "/somewhere/run.json")
            .parallelism.sequence == SequenceSplit{2, 3, 1});

  const auto refused = [](const std::string& value) {
    return message(minimal + "parallelism: {sequence: " + value + "}");
  };
  CHECK_THAT(refused("{ulises: 2}"), Contains("run.yaml:2") && Contains("did you mean ulysses?"));
  CHECK_THAT(refused("{ring: 2, ring: 2}"), Contains("ring of parallelism.sequence stands twice"));
  CHECK_THAT(refused("{ring: 0}"), Contains("parallelism.sequence") && Contains("from 1 to"));
  CHECK_THAT(refused("{ring: 1.5}"), Contains("1.5") && Contains("without point"));
  CHECK_THAT(refused("{ring: auto}"), Contains("parallelism.sequence"));
  CHECK_THAT(refused("{ring: {a: 1}}"), Contains("parallelism.sequence"));
  CHECK_THAT(refused("{}"), Contains("a mapping"));
  CHECK_THAT(refused("0"), Contains("from 1 to"));
  CHECK_THAT(refused("all"), Contains("\"all\"") && Contains("or auto"));
  CHECK_THAT(refused("[2, 2]"), Contains("[2, 2]"));
  CHECK_THAT(refused("{ring: 2, gather_kv: 2}"), Contains("ring and gather_kv"));
  CHECK_THAT(message(minimal, {"parallelism.sequence.rign=2"}), Contains("did you mean ring?"));
  CHECK_THAT(message(minimal, {"parallelism.sequense.ring=2"}), Contains("did you mean parallelism.sequence?"));
  CHECK_THAT(message(minimal, {"training.steps.ring=2"}), Contains("training.steps is no mapping"));
}

TEST_CASE("parallelism.window_layers is written as parallelism.sequence and apart from it") {
  const Experiment e = yaml(minimal + "parallelism: {sequence: 4, window_layers: {ulysses: 2, gather_kv: 2}}");
  CHECK(e.parallelism.sequence == SequenceSplit{4, 1, 1});
  CHECK(e.parallelism.window_layers == SequenceSplit{2, 1, 2});
  CHECK(value_of(e, "parallelism.window_layers") == "{ulysses: 2, gather_kv: 2}");
  CHECK(parse_experiment(to_yaml(e), "/elsewhere/resolved.yaml") == e);
  CHECK_FALSE(yaml(minimal).parallelism.window_layers);
  CHECK_FALSE(yaml(minimal + "parallelism: {window_layers: auto}").parallelism.window_layers);
  const Experiment changed = yaml(minimal, {"parallelism.window_layers.ring=4"});
  CHECK(changed.parallelism.window_layers == SequenceSplit{1, 4, 1});
  CHECK_FALSE(changed.parallelism.sequence);
  CHECK_THAT(message(minimal + "parallelism: {window_layers: {ring: 2, gather_kv: 2}}"),
             Contains("parallelism.window_layers is {ring: 2, gather_kv: 2}") && Contains("use one of them"));
  CHECK_THAT(message(minimal + "parallelism: {window_layers: {halo: 2}}"), Contains("parallelism.window_layers"));
}

TEST_CASE("data.packing is none or a mapping") {
  CHECK_FALSE(yaml(minimal).data.packing);
  CHECK_FALSE(yaml(minimal + "data: {packing: none}").data.packing);
  const Experiment packed = yaml(minimal + "data: {packing: {mode: documents}}");
  CHECK(packed.data.packing == PackingMode::documents);
  CHECK(value_of(packed, "data.packing") == "{mode: documents}");
  CHECK(parse_experiment(to_yaml(packed), "/elsewhere/resolved.yaml") == packed);
  CHECK(yaml(minimal, {"data.packing.mode=documents"}).data.packing == PackingMode::documents);
  CHECK_THAT(message(minimal + "data: {packing: {mode: document}}"), Contains("documents") && Contains("\"document\""));
  CHECK_THAT(message(minimal + "data: {packing: {node: documents}}"), Contains("did you mean mode?"));
  CHECK_THAT(message(minimal + "data: {packing: documents}"), Contains("{mode: best_fit, long: truncate}, or none"));
  const Experiment best = yaml(minimal + "data: {packing: {mode: best_fit, long: truncate}}");
  CHECK(best.data.packing == PackingMode::best_fit);
  CHECK(best.data.long_documents == LongDocuments::truncate);
  CHECK(value_of(best, "data.packing") == "{mode: best_fit, long: truncate}");
  CHECK(parse_experiment(to_yaml(best), "/elsewhere/resolved.yaml") == best);
  CHECK(yaml(minimal + "data: {packing: {mode: best_fit}}").data.long_documents == LongDocuments::split);
  CHECK_THAT(message(minimal + "data: {packing: {mode: documents, long: skip}}"), Contains("for mode best_fit"));
  CHECK_THAT(message(minimal + "data: {packing: {long: skip}}"), Contains("long without mode"));
}

TEST_CASE("garbled experiment files are refused as user errors, never as crashes") {
  const std::string good = to_yaml(yaml(minimal));
  std::uint64_t state = 1;
  const auto next = [&](std::size_t bound) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return static_cast<std::size_t>(state >> 33) % bound;
  };
  const std::string pieces = "{}[],:\"'019-.eE\n ntf\\/&*!|>%@#?\t\xff";
  std::size_t refused = 0, accepted = 0;
  for (int i = 0; i < 1500; ++i) {
    std::string text = good;
    for (std::size_t edits = 1 + next(3); edits > 0; --edits) {
      const std::size_t at = next(text.size());
      if (next(2))
        text[at] = pieces[next(pieces.size())];
      else
        text.erase(at, 1 + next(4));
    }
    try {
      parse_experiment(text, "/somewhere/run.yaml");
      ++accepted;
    } catch (const Error&) {
      ++refused;
    }
  }
  CHECK(refused > 300);
  CHECK(accepted > 20);
  CHECK_THAT(message(std::string(100000, '[')), Contains("nested deeper than 16"));
  CHECK_THAT(message("a: &x [*x]\n"), Contains("run.yaml"));
}

TEST_CASE("training needs data files, other commands do not") {
  CHECK_THROWS_WITH(require_data_files(yaml(minimal)), Contains("data.files is empty"));
  require_data_files(yaml(minimal + "data: {files: a.txt}"));
}
