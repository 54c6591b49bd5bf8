// longhaul export: a checkpoint of a run as a model folder, in the files and the dtype that are asked for.
#include "io/safetensors.h"
#include "program.h"

using namespace longhaul::testing;
using longhaul::SafetensorsReader;

namespace {

Ended run_export(const Workplace& place, const std::vector<std::string>& arguments) {
  auto command = longhaul_command({"export"});
  command.insert(command.end(), arguments.begin(), arguments.end());
  return Program(place / "log", command).wait();
}

// Every tensor's name with its dtype and bytes.
std::map<std::string, std::string> tensors_of(const fs::path& folder) {
  const SafetensorsReader reader(folder.string());
  std::map<std::string, std::string> all;
  for (const auto& [name, tensor] : reader.tensors()) {
    std::string bytes(static_cast<std::size_t>(tensor.bytes), '\0');
    reader.read(tensor, 0, bytes.data(), tensor.bytes);
    all[name] = tensor.dtype + bytes;
  }
  return all;
}

}  // namespace

TEST_CASE("a checkpoint is exported as the run exports it, whole, in shards and in bfloat16", "[threads]") {
  const Workplace place;
  write_file(place / "tokenizer.json", "{}");
  write_file(place / "generation_config.json", "{\"eos_token_id\": 1}");
  const fs::path run = place / "run";
  // GPT-2 stores its matrices transposed, and fused.
  const std::string gpt2 = place
                               .model("gpt2.json", {{"model_type", "gpt2"},
                                                    {"n_embd", 16},
                                                    {"n_layer", 2},
                                                    {"n_head", 4},
                                                    {"n_positions", 64},
                                                    {"activation_function", "gelu_new"}})
                               .string();
  write_file(gpt2,
             R"({"model_type": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": 257,
                 "activation_function": "gelu_new"})");
  for (const std::string& model : {(place / "model.json").string(), gpt2}) {
    fs::remove_all(run);
    check_end(run_train(place, {"--ranks", "2", "parallelism.zero_stage=3", "data.tokenizer=bytes",
                                "job.folder=" + run.string(), "model.config=" + model}),
              0, {"exported the model", "with tokenizer.json, generation_config.json"});
    CHECK(read_file(run / "export/generation_config.json") == "{\"eos_token_id\": 1}");

    const fs::path whole = place / "whole", shards = place / "shards", half = place / "half";
    check_end(run_export(place, {run.string(), "-o", whole.string()}), 0,
              {"checkpoint of step 12", "exported the model to " + whole.string()});
    for (const char* name : {"config.json", "model.safetensors", "tokenizer.json", "generation_config.json"})
      CHECK(read_file(whole / name) == read_file(run / "export" / name));

    // Into a folder with one file: it must not stay beside the shards.
    fs::remove_all(shards);
    fs::copy(whole, shards);
    check_end(run_export(place, {run.string(), "-o", shards.string(), "--max-shard-size", "8KB"}), 0, {" files"});
    CHECK_FALSE(fs::exists(shards / "model.safetensors"));
    int files = 0;
    for (const auto& item : fs::directory_iterator(shards))
      if (item.path().extension() == ".safetensors") {
        ++files;
        CHECK(SafetensorsReader(item.path().string()).tensors().size() >= 1);
      }
    CHECK(files > 3);
    CHECK(tensors_of(shards) == tensors_of(whole));
    const auto index = nlohmann::json::parse(read_file(shards / "model.safetensors.index.json"));
    CHECK(index.at("weight_map").size() == tensors_of(whole).size());
    CHECK_FALSE(fs::exists(shards / ".export.partial"));
    // And back.
    check_end(run_export(place, {run.string(), "-o", shards.string()}), 0, {});
    CHECK_FALSE(fs::exists(shards / "model.safetensors.index.json"));
    CHECK(tensors_of(shards) == tensors_of(whole));

    check_end(run_export(place, {run.string(), "-o", half.string(), "--dtype", "bfloat16", "--step", "9"}), 0,
              {"checkpoint of step 9", "bfloat16"});
    for (const auto& [name, tensor] : tensors_of(half)) CHECK(tensor.starts_with("BF16"));
    CHECK(tensors_of(half).size() == tensors_of(whole).size());
    CHECK_THAT(read_file(half / "config.json"), Catch::Contains("bfloat16"));
  }
}

TEST_CASE("an export that is not possible says why and writes nothing", "[threads]") {
  const Workplace place;
  const fs::path run = place / "run", out = place / "out";
  check_end(run_train(place, {"job.folder=" + run.string()}), 0, {});
  check_end(run_export(place, {run.string(), "-o", out.string(), "--step", "5"}), 1,
            {"has no checkpoint of step 5", "9, 12"});
  check_end(run_export(place, {(place / "none").string(), "-o", out.string()}), 1, {"none is no folder"});
  check_end(run_export(place, {place.operator/("").string(), "-o", out.string()}), 1, {"holds no checkpoint"});
  check_end(run_export(place, {run.string(), "-o", out.string(), "--dtype", "float16"}), 1, {"--dtype float16"});
  check_end(run_export(place, {run.string(), "-o", (place / "model.json").string()}), 1, {"model.json"});
  CHECK_FALSE(fs::exists(out));
  // Nor is anything written over that is no export.
  check_end(run_export(place, {run.string(), "-o", run.string()}), 1, {"is the run itself"});
  check_end(run_export(place, {run.string(), "-o", (run / "checkpoints").string()}), 1, {"the run's checkpoints are"});
  check_end(run_export(place, {run.string(), "-o", (run / "checkpoints/step-00000012").string()}), 1,
            {"the run's checkpoints are"});
  check_end(run_export(place, {run.string(), "-o", place / ""}), 1, {"the run was started from"});
  CHECK_FALSE(fs::exists(run / "config.json"));
  CHECK_FALSE(fs::exists(place / "config.json"));

  // Damage is found where it is read, and an earlier export stays.
  check_end(run_export(place, {run.string(), "-o", out.string(), "--step", "9"}), 0, {});
  const std::string before = read_file(out / "model.safetensors");
  std::string bytes = read_file(run / "checkpoints/step-00000012/rank-00000.bin");
  for (std::size_t i = 0; i < bytes.size(); i += 64) bytes[i] = static_cast<char>(bytes[i] ^ 1);
  write_file(run / "checkpoints/step-00000012/rank-00000.bin", bytes);
  check_end(run_export(place, {run.string(), "-o", out.string()}), 1, {"corrupted", "step-00000012"});
  CHECK(read_file(out / "model.safetensors") == before);

  // The model that the run was started from is gone.
  fs::rename(place / "model.json", place / "moved.json");
  check_end(run_export(place, {run.string(), "-o", (place / "again").string(), "--step", "9"}), 0,
            {"is not used", "as llama"});
  CHECK(tensors_of(place / "again") == tensors_of(out));
}

TEST_CASE("training on longer sequences than the configuration knows is written into the export", "[threads]") {
  const Workplace place;
  const fs::path run = place / "run";
  check_end(run_train(place, {"job.folder=" + run.string(), "training.seq_len=96", "training.steps=2"}), 0,
            {"96 positions"});
  CHECK(nlohmann::json::parse(read_file(run / "export/config.json")).at("max_position_embeddings") == 96);
}
