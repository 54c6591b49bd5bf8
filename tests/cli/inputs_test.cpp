// Bad inputs: each ends with exit code 1 and a message that names the file or key, the value, and what is allowed.
#include <sys/stat.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>

#include "io/safetensors.h"
#include "program.h"

using namespace longhaul;
using namespace longhaul::testing;

namespace {

std::string llmc_file(const std::vector<std::uint16_t>& tokens) {
  std::vector<std::int32_t> header(256);
  header[0] = 20240520;
  header[1] = 1;
  header[2] = static_cast<std::int32_t>(tokens.size());
  std::string bytes(reinterpret_cast<const char*>(header.data()), 1024);
  return bytes.append(reinterpret_cast<const char*>(tokens.data()), tokens.size() * 2);
}

// A copy of the first run's export whose tensors (float32) a test has changed.
using Tensors = std::map<std::string, std::pair<std::vector<std::int64_t>, std::vector<float>>>;
std::string changed_weights(const fs::path& exported, const fs::path& target,
                            const std::function<void(Tensors&)>& change) {
  Tensors tensors;
  {
    const SafetensorsReader reader(exported.string());
    for (const auto& [name, tensor] : reader.tensors()) {
      std::vector<float> values(static_cast<std::size_t>(tensor.bytes) / 4);
      reader.read(tensor, 0, values.data(), tensor.bytes);
      tensors[name] = {tensor.shape, values};
    }
  }
  change(tensors);
  std::vector<SafetensorsDeclaration> declarations;
  for (const auto& [name, tensor] : tensors) declarations.push_back({name, "F32", tensor.first});
  SafetensorsWriter writer(target.string(), declarations);
  for (const auto& [name, tensor] : tensors)
    writer.write(name, 0, tensor.second.data(), static_cast<std::int64_t>(tensor.second.size()) * 4);
  writer.finish();
  return target.string();
}

}  // namespace

TEST_CASE("bad experiment files") {
  const Workplace place;
  const auto refused = [&](const std::string& name, const std::string& text, const std::vector<std::string>& says) {
    write_file(place / name, text);
    auto all = says;
    all.push_back((place / name).string());
    const auto ended = Program(place / "log", longhaul_command({"train", (place / name).string()})).wait();
    check_end(ended, 1, all);
    // What was expected, not merely the printed experiment.
    CHECK_THAT(ended.output, !Catch::Contains("resolved"));
  };
  refused("garbled.yaml", "model: {config: model.json}\ntraining: {steps: 1\n", {"not valid YAML", ":3"});
  refused("garbled.json", "{\"model\": {\"config\": ", {"not valid JSON"});
  refused("empty.yaml", "", {"model.config"});
  refused("list.yaml", "[1, 2]\n", {"mapping of sections"});
  refused("binary.yaml", std::string("\x00\x01\xff\xfe\x80", 5), {});
  refused("unknown.yaml", "model: {config: model.json}\ntraining: {stesp: 2}\n", {"stesp", "training.steps", ":2"});
  refused("section.yaml", "modle: {config: model.json}\n", {"modle", "model", ":1"});
  refused("twice.yaml", "model: {config: model.json}\ntraining: {steps: 1, steps: 2}\n", {"training.steps", "twice"});
  refused("twice.json", R"({"model": {"config": "model.json"}, "training": {"steps": 1, "steps": 2}})",
          {"steps", "twice"});
  refused("heading.yaml", "training: {steps: 1}\nmodel: {config: model.json}\ntraining: {seed: 1}\n",
          {"training", "twice", ":3"});
  refused("type.yaml", "model: {config: model.json}\ntraining: {steps: soon}\n",
          {"training.steps", "soon", "integer", ":2"});
  refused("choice.yaml", "model: {config: model.json}\ntraining: {dtype: int8}\n",
          {"training.dtype", "int8", "float32, bfloat16"});
  refused("range.yaml", "model: {config: model.json}\ntraining: {seq_len: -3}\n", {"training.seq_len", "-3", "from 1"});
}

TEST_CASE("bad model files") {
  const Workplace place;
  const auto refused = [&](const std::string& model, const std::vector<std::string>& says,
                           const std::vector<std::string>& more = {}) {
    auto arguments = more;
    arguments.push_back("model.config=" + model);
    auto all = says;
    all.push_back(model);
    check_end(run_train(place, arguments), 1, all);
  };
  refused((place / "nowhere.json").string(), {"no such file"});
  write_file(place / "garbled.json", "{\"model_type\": \"llama\", ");
  refused((place / "garbled.json").string(), {"not valid JSON"});
  write_file(place / "twice.json", R"({"model_type": "llama", "hidden_size": 16, "hidden_size": 32})");
  refused((place / "twice.json").string(), {"hidden_size", "twice"});
  refused(place.model("type.json", {{"hidden_size", "big"}}).string(), {"hidden_size", "\"big\"", "integer"});
  write_file(place / "missing.json", R"({"model_type": "longhaul", "vocabulary": 257})");  // our own has no defaults
  refused((place / "missing.json").string(), {"hidden_size"});
  refused(place.model("mamba.json", {{"model_type", "mamba"}}).string(),
          {"mamba", "recurrent", "longhaul, cohere", "qwen2, qwen3"});
  refused(place.model("heads.json", {{"num_attention_heads", 3}}).string(),
          {"num_attention_heads is 3", "num_key_value_heads"});
  nlohmann::ordered_json gpt2 = {{"model_type", "gpt2"}, {"n_embd", 16},     {"n_layer", 1},
                                 {"n_head", 4},          {"n_positions", 8}, {"vocab_size", 257}};
  write_file(place / "gpt2.json", gpt2.dump());
  refused((place / "gpt2.json").string(), {"training.seq_len is 16", "8 learned positions"});
  // Nothing was begun.
  CHECK(!fs::exists(place / "runs"));
}

TEST_CASE("impossible placements, devices, environments and folders") {
  const Workplace place;
  const auto refused = [&](const std::vector<std::string>& arguments, const std::vector<std::string>& says,
                           const std::vector<std::string>& environment = {}) {
    check_end(run_train(place, arguments, environment), 1, says);
  };
  refused({"--ranks", "3", "parallelism.sequence=3"}, {"parallelism.sequence", "4 query heads", "3 ranks"});
  refused({"--ranks", "3", "parallelism.sequence=2"}, {"parallelism.sequence is 2", "ranks, which is 3"});
  refused({"--ranks", "4", "parallelism.data=3", "training.global_batch_size=6"},
          {"parallelism.data is 3", "ranks, which is 4"});
  refused({"--ranks", "4", "parallelism.data=2", "parallelism.sequence=1"}, {"2 x 1 = 2", "which is 4"});
  refused({"training.global_batch_size=3"}, {"training.global_batch_size is 3", "training.micro_batch_size"});
  refused({"parallelism.zero_stage=4"}, {"parallelism.zero_stage", "4"});
  refused({"device.type=cuda"}, {"device.type is cuda", "cpu"});
  refused({}, {"LONGHAUL_KERNEL ", "LONGHAUL_KERNELS"}, {"LONGHAUL_KERNEL=reference"});
  refused({}, {"LONGHAUL_KERNELS", "fast", "reference"}, {"LONGHAUL_KERNELS=fast"});
  refused({}, {"LONGHAUL_LOG", "loud", "debug"}, {"LONGHAUL_LOG=loud"});
  refused({}, {"LONGHAUL_ISA", "sse", "avx2"}, {"LONGHAUL_ISA=sse"});
  refused({"--ranks", "2", "job.folder=/proc/longhaul-run"}, {"job.folder /proc/longhaul-run"});
  refused({"job.folder=" + (place / "text.txt").string()}, {"job.folder " + (place / "text.txt").string(), "folder"});
  refused({"job.folder=" + (place / "text.txt/run").string()}, {"job.folder " + (place / "text.txt/run").string()});
}

TEST_CASE("bad data files") {
  const Workplace place;
  const auto refused = [&](const std::string& key, const std::string& file, const std::string& format,
                           const std::vector<std::string>& says) {
    for (const std::string ranks : {"1", "2"}) {
      const auto ended =
          run_train(place, {"--ranks", ranks, key + "=[" + file + "]", "data.format=" + format, "training.steps=1"});
      check_end(ended, 1, says);
      CHECK_THAT(ended.output, Catch::Contains("rank 0: " + key) || Catch::Contains("rank 1: " + key));
    }
  };
  const std::string bad = (place / "bad.bin").string();
  refused("data.files", (place / "nowhere.txt").string(), "text", {"nowhere.txt", "No such file"});
  write_file(bad, "");
  refused("data.files", bad, "text", {bad, "holds no tokens"});
  write_file(bad, "ten bytes.");
  refused("data.files", bad, "text", {"10 tokens", "training.seq_len 16", "17"});
  refused("data.validation_files", bad, "text", {"10 tokens", "training.seq_len 16", "17"});

  std::vector<std::uint16_t> tokens(400, 7);
  std::string bytes = llmc_file(tokens);
  write_file(bad, bytes.substr(0, bytes.size() - 3));
  refused("data.files", bad, "llmc", {bad, "truncated", "1824", "1821"});
  write_file(bad, bytes.substr(0, 100));
  refused("data.files", bad, "llmc", {bad, "header", "100 bytes"});
  tokens[390] = 257;
  write_file(bad, llmc_file(tokens));
  refused("data.files", bad, "llmc", {bad, "257", std::to_string(1024 + 2 * 390), "vocabulary of 257"});
  refused("data.files", bad, "text", {bad, "llm.c"});
  refused("data.files", (place / "text.txt").string(), "llmc", {"text.txt", "magic"});

  const std::string lines = (place / "bad.jsonl").string();
  write_file(lines, "{\"text\": \"a document that is long enough\"}\n\n{\"prompt\": \"and one\"}\n");
  refused("data.files", lines, "jsonl", {lines + ":3: it has prompt but no completion"});
  write_file(place / "good.jsonl", "{\"text\": \"a document that is long enough\"}\n");
  const std::string good = (place / "good.jsonl").string();
  check_end(run_train(place, {"data.format=jsonl", "data.files=" + good, "data.validation_files=" + lines}), 1,
            {"data.validation_files: " + lines + ":3: it has prompt but no completion"});
  check_end(run_train(place, {"data.format=jsonl", "data.files=" + good, "data.validation_files=" + good,
                              "training.steps=1", "job.folder=" + (place / "good").string()}),
            0, {"training data: 31 tokens"});
  write_file(lines, "{\"text\": \"a document that is long enough\"}\r\n{\"text\": \"but this is not\r\n");
  refused("data.files", lines, "jsonl", {lines + ":2: not valid JSON: column"});
  refused("data.files", (place / "text.txt").string(), "jsonl", {"text.txt:1: not valid JSON", "a JSON object"});
  refused("data.files", (place / "model.json").string(), "jsonl", {"model.json:1: it has neither text nor prompt"});
  const auto masked = [&](const std::string& format) {
    return run_train(place, {"data.mask_prompt=true", "data.format=" + format, "data.files=[" + lines + "]"});
  };
  check_end(masked("text"), 1, {"data.mask_prompt is true", "data.format is text", "jsonl"});
  write_file(lines, "{\"text\": \"a document that is long enough\"}\n");
  check_end(masked("jsonl"), 1, {"data.mask_prompt is true", "no line of " + lines + " has a prompt"});
}

TEST_CASE("bad weights: of another shape, missing, surplus, and not a number") {
  const Workplace place;
  const std::string folder = "job.folder=" + (place / "run").string();
  check_end(run_train(place, {folder, "training.steps=1"}), 0, {});
  const fs::path exported = place / "run/export/model.safetensors";
  const std::string name = "model.layers.1.mlp.up_proj.weight";
  const auto started = [&](const std::string& weights) {
    return run_train(place, {"--ranks", "2", "job.folder=" + (place / "other").string(), "model.weights=" + weights});
  };
  const std::string file = (place / "changed.safetensors").string();
  const auto refused = [&](const std::vector<std::string>& says, const std::function<void(Tensors&)>& change) {
    check_end(started(changed_weights(exported, file, change)), 1, says);
  };
  refused({file, name, "[16, 24]", "[24, 16]"}, [&](Tensors& all) { all.at(name).first = {16, 24}; });
  refused({file, name, "missing", "[24, 16]"}, [&](Tensors& all) { all.erase(name); });
  refused({file, "'model.layers.2.mlp.up_proj.weight'", "none of the model's"},
          [&](Tensors& all) { all["model.layers.2.mlp.up_proj.weight"] = all.at(name); });
  check_end(started((place / "nowhere.safetensors").string()), 1, {"nowhere.safetensors"});
  write_file(place / "short.safetensors", read_file(exported).substr(0, 5000));
  check_end(started((place / "short.safetensors").string()), 1, {"short.safetensors"});
  check_end(started((place / "text.txt").string()), 1, {"text.txt"});
  // The folder is a record of the starts that failed; nothing was trained.
  CHECK(checkpoints_of(place / "other").empty());
  CHECK(lines_of(place / "other/metrics.jsonl") == 0);

  const Ended ended = started(changed_weights(exported, file, [&](Tensors& all) { all.at(name).second[5] = NAN; }));
  check_end(ended, 1, {"step 1: the loss is nan", "last checkpoint: none"});
  CHECK(count_of(ended.output, "the loss is nan") == 1);
  CHECK(losses_of(place / "other").empty());
  CHECK(checkpoints_of(place / "other").empty());
  // Unchanged, the copy is accepted.
  check_end(started(changed_weights(exported, file, [](Tensors&) {})), 0, {"weights read from"});
}

// The usual mistakes with a model folder, with paths, and with data that changes: what is said, and what is read
// anyway.
TEST_CASE("folders and files as users have them") {
  const Workplace place;
  const std::string run = "job.folder=" + (place / "run").string();
  check_end(run_train(place, {run, "training.steps=1"}), 0, {"parameters: random, by model.init_seed 0"});
  const fs::path exported = place / "run/export";
  const auto start = [&](std::vector<std::string> more) {
    fs::remove_all(place / "other");
    more.insert(more.end(), {"job.folder=" + (place / "other").string(), "training.steps=1"});
    return run_train(place, more);
  };
  // Weights beside model.config are not read in silence.
  check_end(start({"model.config=" + exported.string()}), 0,
            {"parameters: random", exported.string() + " holds weights (model.safetensors)",
             "set model.weights=" + exported.string()});
  const Ended with = start({"model.config=" + exported.string(), "model.weights=" + exported.string()});
  check_end(with, 0, {"weights read from"});
  CHECK_THAT(with.output, !Catch::Contains("which are not read"));
  // At a resume they are not read again, and that is said.
  check_end(run_train(place, {run, "training.steps=2", "model.weights=" + exported.string()}), 0,
            {"model.weights is not read: parameters come from checkpoint"});

  fs::create_directory(place / "lfs");
  write_file(place / "lfs/model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n");
  fs::copy_file(place / "lfs/model.safetensors", place / "lfs/config.json");
  check_end(start({"model.weights=" + (place / "lfs").string()}), 1, {"Git LFS pointer"});
  check_end(start({"model.config=" + (place / "lfs").string()}), 1, {"config.json", "Git LFS pointer"});
  fs::create_directory(place / "bin");
  write_file(place / "bin/pytorch_model.bin", "x");
  check_end(start({"model.weights=" + (place / "bin").string()}), 1, {"it holds pytorch_model.bin", "convert"});
  check_end(start({"model.config=" + (place / "bin").string()}), 1, {"no config.json; it holds pytorch_model.bin"});
  check_end(start({"model.config=Qwen/Qwen3-0.6B"}), 1, {"Qwen/Qwen3-0.6B", "download it first"});
  check_end(start({"model.weights=~/weights"}), 1, {"model.weights", "~ is not expanded"});
  check_end(start({"data.files=" + (place / "te*.txt").string()}), 0, {"training data: 3000 tokens"});
  fs::create_directory(place / "shards");
  for (const char* name : {"1.txt", "2.txt"}) fs::copy_file(place / "text.txt", place / "shards" / name);
  check_end(start({"data.files=" + (place / "shards").string()}), 0, {"training data: 6001 tokens in 2 files"});
}

TEST_CASE("sizes that no machine has, names of 5,000 letters, pipes and circles end at once with a message") {
  const Workplace place;
  const auto refused = [&](const std::vector<std::string>& arguments, const std::vector<std::string>& says) {
    const Ended ended = Program(place / "log", train_command(place, arguments)).wait(20);
    check_end(ended, 1, says);
  };
  const std::string long_name(5000, 'n');
  for (const char* key : {"job.name", "job.folder", "model.config", "model.weights", "data.files"})
    refused({std::string(key) + "=" + long_name}, {});
  fs::create_symlink(place / "b", place / "a");
  fs::create_symlink(place / "a", place / "b");
  REQUIRE(::mkfifo((place / "pipe").c_str(), 0600) == 0);
  for (const std::string name : {"a", "pipe"}) {
    const std::string path = (place / name).string();
    for (const std::string key : {"model.config", "model.weights", "data.files", "data.validation_files"})
      refused({key + "=" + path}, {path});
    refused({"job.folder=" + path}, {path});
    check_end(Program(place / "log", longhaul_command({"train", path + ".yaml"})).wait(20), 1, {});
  }
  fs::create_directory(place / "used");
  REQUIRE(::mkfifo((place / "used/metrics.jsonl").c_str(), 0600) == 0);
  refused({"job.folder=" + (place / "used").string()}, {"metrics.jsonl"});
  write_file(place / "deep.json", "{\"model_type\": " + std::string(100'000, '['));
  refused({"model.config=" + (place / "deep.json").string()}, {"nested deeper than 64"});
  for (const std::vector<std::string>& sizes :
       {std::vector<std::string>{"training.micro_batch_size=16777216", "training.seq_len=2147483647",
                                 "training.global_batch_size=16777216"},
        {"training.global_batch_size=1000000000", "training.micro_batch_size=1"},
        {"parallelism.data=1000000", "parallelism.sequence={ulysses: 1000000, ring: 1000000}"},
        {"training.seq_len=2147483647"}})
    refused(sizes, {});
  refused({"model.config=" + place
                                 .model("huge.json", {{"vocab_size", 2147483647},
                                                      {"hidden_size", 1048576},
                                                      {"intermediate_size", 16777216},
                                                      {"num_hidden_layers", 4096},
                                                      {"num_attention_heads", 16384},
                                                      {"num_key_value_heads", 16384},
                                                      {"head_dim", 4096}})
                                 .string()},
          {});
}

TEST_CASE("data that changes, shrinks or goes while a run reads it ends the run with its name", "[threads]") {
  const Workplace place;
  const std::string original = read_file(place / "text.txt");
  const auto changed = [&](const std::string& ranks, const std::vector<std::string>& says, auto&& change) {
    write_file(place / "text.txt", original);
    fs::remove_all(place / "run");
    Program program(place / "log", train_command(place, {"--ranks", ranks, "job.folder=" + (place / "run").string(),
                                                         "training.steps=1000000", "checkpoint.interval=0"}));
    while (program.running() && lines_of(place / "run/metrics.jsonl") < 3)
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    change();
    check_end(program.wait(30), 1, says);
  };
  const fs::path file = place / "text.txt";
  changed("1", {file.string(), "shortened"}, [&] { fs::resize_file(file, 100); });
  changed("2", {file.string(), "is gone"}, [&] { fs::remove(file); });
  changed("2", {file.string(), "another file now"}, [&] {
    write_file(place / "new.txt", original);
    fs::rename(place / "new.txt", file);
  });
}
