// Text that a run tokenizes itself: the same tokens for any number of ranks, made once, of what the user named.
#include "run/text_tokens.h"

#include <catch2/catch.hpp>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>

#include "../io/temporary.h"
#include "../train/small_models.h"
#include "base/environment.h"
#include "base/error.h"
#include "base/json.h"
#include "comm/launch.h"
#include "data/dataset.h"
#include "model/spec.h"
#include "run/source.h"
#include "tokenizer/chat_format.h"
#include "train/trainer.h"
#include "verify/verify.h"

using namespace longhaul;
using namespace longhaul::testing;
using Catch::Contains;
namespace fs = std::filesystem;

namespace {

const char* const chatml =
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{{ '' }}{% endfor %}";

// A model's folder with its tokenizer and chat template, and chats of many lengths.
struct Chats {
  longhaul_test::TemporaryFolder folder;
  std::vector<std::vector<ChatMessage>> chats;
  std::int64_t vocabulary = 0;

  Chats() {
    const fs::path tokenizer = fs::path(environment("LONGHAUL_TEST_DATA")) / "golden/tokenizers/qwen2/tokenizer.json";
    vocabulary = load_tokenizer(tokenizer)->vocabulary_size();
    fs::create_directories(fs::path(folder / "model"));
    fs::copy_file(tokenizer, folder / "model/tokenizer.json");
    std::ofstream(folder / "model/chat_template.jinja") << chatml;
    TransformerSpec spec = small_llama();
    spec.vocabulary = vocabulary;
    spec.max_positions = 128;
    std::ofstream(folder / "model/model.json") << spec_text(spec);
    std::ofstream lines(folder / "chats.jsonl");
    for (int i = 0; i < 40; ++i) {
      chats.push_back(
          {{"user", "question " + std::to_string(i)},
           {"assistant", std::string(static_cast<std::size_t>(3 * i), 'x') + " answer " + std::to_string(i)}});
      nlohmann::json messages = nlohmann::json::array();
      for (const auto& [role, content] : chats.back()) messages.push_back({{"role", role}, {"content", content}});
      lines << nlohmann::json{{"messages", messages}}.dump() << '\n';
    }
    std::ofstream(folder / "experiment.yaml")
        << "model: {config: model/model.json}\n"
           "data: {files: [chats.jsonl], format: jsonl, packing: {mode: best_fit}}\n"
           "training: {seq_len: 64, steps: 2, global_batch_size: 4, dtype: float64, threads: 1}\n"
           "optimizer: {lr: 1e-2}\n";
  }
  Experiment load(const std::vector<std::string>& overrides = {}) const {
    return load_experiment(folder / "experiment.yaml", overrides);
  }
  // The token files of a run folder.
  static std::vector<fs::path> tokens(const Experiment& experiment) {
    std::vector<fs::path> found;
    for (const auto& entry : fs::directory_iterator(experiment.job.folder / "tokens"))
      if (entry.path().extension() == ".ds") found.push_back(entry.path());
    return found;
  }
};

std::vector<double> losses(const Experiment& experiment, int ranks) {
  run_threads(ranks, [&](Communicator& world) { return train(world, experiment, std::chrono::steady_clock::now()); });
  std::vector<double> all;
  std::ifstream lines(experiment.job.folder / "metrics.jsonl");
  for (std::string line; std::getline(lines, line);) all.push_back(nlohmann::json::parse(line).at("loss"));
  return all;
}

std::string refused(const Experiment& experiment) {
  try {
    run_threads(2, [&](Communicator& world) { return train(world, experiment, std::chrono::steady_clock::now()); });
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("a run makes tokens of chats once, and learns the same on any number of ranks", "[threads][libraries]") {
  const Chats chats;
  const Experiment alone = chats.load({"job.folder=" + (chats.folder / "alone")});
  const std::vector<double> first = losses(alone, 1);
  REQUIRE(first.size() == 2);
  REQUIRE(Chats::tokens(alone).size() == 1);
  const fs::path made = Chats::tokens(alone)[0];

  // What transformers would give (tests/golden/chats): the template's text, and the assistant's turns learned.
  const auto tokenizer = load_tokenizer(chats.folder / "model");
  const auto words = tokenizer->encoder();
  ChatEncoder encoder(*tokenizer, *words);
  std::vector<std::int32_t> ids;
  std::vector<std::uint8_t> learned;
  for (const auto& chat : chats.chats)
    encoder.encode(ChatFormat(chatml, "x", {}).write(chat, TrainOn::assistant), ids, learned);
  DatasetOptions options;
  options.files = {made.string()};
  options.format = "datatrove";
  options.vocabulary = chats.vocabulary;
  const TokenDataset dataset(options);
  REQUIRE(dataset.size() == static_cast<std::int64_t>(ids.size()));
  std::vector<std::int32_t> stored(ids.size());
  dataset.read(0, dataset.size(), stored.data());
  CHECK(stored == ids);
  std::vector<std::uint8_t> mask(ids.size());
  dataset.read_loss_mask(0, dataset.size(), mask.data());
  CHECK(mask == learned);

  const std::vector<std::string> split = {"parallelism.data=2", "parallelism.sequence={ring: 2}",
                                          "parallelism.zero_stage=3"};
  std::vector<std::string> keys = split;
  keys.push_back("job.folder=" + (chats.folder / "four"));
  const std::vector<double> on_four = losses(chats.load(keys), 4);
  REQUIRE(on_four.size() == 2);
  for (std::size_t i = 0; i < 2; ++i) CHECK(std::abs(on_four[i] - first[i]) < 1e-10 * first[i]);

  // A run that goes on reads what is there; another choice makes other tokens.
  const auto written = fs::last_write_time(made);
  Experiment more = alone;
  more.training.steps = 3;
  CHECK(losses(more, 2).size() == 3);
  CHECK(Chats::tokens(alone) == std::vector<fs::path>{made});
  CHECK(fs::last_write_time(made) == written);
  more.training.steps = 4;
  more.data.train_on = TrainOn::all;
  CHECK(losses(more, 1)[3] != losses(more, 1)[2]);
  CHECK(Chats::tokens(alone).size() == 2);
}

TEST_CASE("ranks that hold packed chats compute what the specification does", "[threads][libraries]") {
  const Chats chats;
  for (const std::string split : {"4", "{ring: 4}", "{ulysses: 2, ring: 2}", "{gather_kv: 4}"})
    for (const std::string longer : {"split", "truncate", "skip"}) {
      INFO(split << " " << longer);
      const Experiment experiment =
          chats.load({"parallelism.sequence=" + split, "parallelism.zero_stage=3", "training.seq_len=40",
                      "data.packing={mode: best_fit, long: " + longer + "}",
                      split == "{ring: 4}" ? "parallelism.token_order=balanced" : "parallelism.token_order=auto"});
      VerificationReport report;
      run_threads(4, [&](Communicator& world) {
        VerificationReport mine = verify_run(world, experiment, {});
        if (world.rank() == 0) report = std::move(mine);
        return 0;
      });
      INFO(report.text());
      CHECK_FALSE(report.differs);
    }
}

TEST_CASE("a tokenizer that is another one than before is told by a run that goes on, and refused by a finished one",
          "[threads][libraries]") {
  const Chats chats;
  const fs::path model = fs::path(chats.folder / "model");
  const auto swap_tokenizer = [&](const std::string& style) {
    fs::copy_file(fs::path(environment("LONGHAUL_TEST_DATA")) / "golden/tokenizers" / style / "tokenizer.json",
                  model / "tokenizer.json", fs::copy_options::overwrite_existing);
  };
  const auto log_of = [](const Experiment& experiment) {
    std::ifstream log(experiment.job.folder / "log.txt");
    return std::string(std::istreambuf_iterator<char>(log), {});
  };
  const std::string told = ", data.tokenizer /";  // behind training.steps
  const std::vector<std::string> keys = {"data.chat_format=chatml", "job.folder=" + (chats.folder / "run")};
  Experiment run = chats.load(keys);
  REQUIRE(losses(run, 1).size() == 2);
  CHECK(refused(run).empty());  // finished, and of the same

  // No key has changed, but the file beside the model.
  swap_tokenizer("gpt2");
  CHECK_THAT(refused(run), Contains("a finished run of another experiment: data.tokenizer") &&
                               Contains("with other contents, chat template or end token"));
  run.training.steps = 3;
  CHECK_FALSE(Contains(told).match(log_of(run)));
  REQUIRE(losses(run, 2).size() == 3);
  CHECK_THAT(log_of(run), Contains(told) && Contains("with other contents") && Contains("the data are others"));

  // Another file with the same contents is the same; so is the same file elsewhere.
  fs::create_directories(fs::path(chats.folder / "copy"));
  fs::copy(model, fs::path(chats.folder / "copy"), fs::copy_options::recursive);
  run = chats.load({keys[0], keys[1], "data.tokenizer=" + (chats.folder / "copy"), "training.steps=3"});
  CHECK(refused(run).empty());
  run.training.steps = 4;
  const std::size_t before = log_of(run).size();
  REQUIRE(losses(run, 1).size() == 4);
  CHECK_FALSE(Contains(told).match(log_of(run).substr(before)));

  // The template decides the tokens of chats too.
  std::ofstream(model / "chat_template.jinja") << "{% for m in messages %}<start_of_turn>{{ m.role if m.role == 'user' "
                                                  "else 'model' }}\n{{ m.content }}<end_of_turn>\n{{ '' }}{% endfor %}";
  swap_tokenizer("qwen2");
  run = chats.load({"job.folder=" + (chats.folder / "template"), "data.chat_format=auto"});
  REQUIRE(losses(run, 1).size() == 2);
  std::ofstream(model / "chat_template.jinja") << chatml;
  CHECK_THAT(refused(run), Contains("data.tokenizer") && Contains("chat template"));
}

TEST_CASE("bytes for text that a tokenizer read before are told, and refused by a finished run",
          "[threads][libraries]") {
  const Chats chats;
  const fs::path model = fs::path(chats.folder / "model");
  TransformerSpec spec = small_llama();
  spec.vocabulary = 400;
  spec.max_positions = 128;
  std::ofstream(model / "model.json") << spec_text(spec);
  fs::copy_file(fs::path(environment("LONGHAUL_TEST_DATA")) / "golden/tokenizers/albert/tokenizer.json",
                model / "tokenizer.json", fs::copy_options::overwrite_existing);
  std::ofstream text(chats.folder / "text.txt");
  for (int i = 0; i < 200; ++i) text << "line " << i << " of some text\n";
  text.close();
  const std::vector<std::string> keys = {"data.files=" + (chats.folder / "text.txt"), "data.format=text",
                                         "data.packing=none"};
  for (const std::string tokenizer : {"bytes", "auto"}) {
    INFO(tokenizer);
    std::vector<std::string> all = keys;
    all.push_back("job.folder=" + (chats.folder / ("run-" + tokenizer)));
    Experiment run = chats.load(all);
    REQUIRE(losses(run, 1).size() == 2);
    // By the key; or `auto`, which finds a tokenizer no more.
    all.push_back("data.tokenizer=" + tokenizer);
    if (tokenizer == "auto") fs::remove(model / "tokenizer.json");
    run = chats.load(all);
    CHECK_THAT(refused(run), Contains("a finished run of another experiment: data.tokenizer bytes (was ") &&
                                 Contains("tokenizer.json"));
    run.training.steps = 3;
    REQUIRE(losses(run, 2).size() == 3);
    std::ifstream log(run.job.folder / "log.txt");
    CHECK_THAT(std::string(std::istreambuf_iterator<char>(log), {}), Contains("data.tokenizer bytes (was "));
  }
}

TEST_CASE("text of JSON lines that is read as plain text is told", "[threads][libraries]") {
  const Chats chats;
  std::ofstream text(chats.folder / "text.txt");
  for (int i = 0; i < 200; ++i) text << "line " << i << " of some text\n";
  text.close();
  const auto log_of = [&](const std::string& name, std::vector<std::string> keys) {
    keys.push_back("job.folder=" + (chats.folder / name));
    keys.push_back("training.steps=1");
    const Experiment run = chats.load(keys);
    CHECK(losses(run, 1).size() == 1);
    std::ifstream log(run.job.folder / "log.txt");
    return std::string(std::istreambuf_iterator<char>(log), {});
  };
  const std::string lines = chats.folder / "chats.jsonl", plain = chats.folder / "text.txt";
  const std::string told = "chats.jsonl, of data.format jsonl by its name, is read as text";
  CHECK_THAT(log_of("a", {"data.files=" + lines, "data.format=text", "data.packing=none"}),
             Contains("W training data: ") && Contains(told) && Contains("data.format: jsonl"));
  CHECK_THAT(
      log_of("b", {"data.files=" + plain, "data.format=text", "data.packing=none", "data.validation_files=" + lines}),
      Contains("W validation data") && Contains(told));
  CHECK_THAT(log_of("c", {"data.files=" + lines, "data.format=text", "data.packing=none", "data.tokenizer=bytes"}),
             Contains(told));
  CHECK_FALSE(Contains("by its name").match(log_of("d", {})));
  CHECK_FALSE(
      Contains("by its name").match(log_of("e", {"data.files=" + plain, "data.format=text", "data.packing=none"})));
}

TEST_CASE("text is refused where its tokens would not be the model's", "[threads][libraries]") {
  const Chats chats;
  fs::remove(chats.folder / "model/tokenizer.json");
  CHECK_THAT(refused(chats.load()), Contains("data.tokenizer auto") && Contains("holds no tokenizer") &&
                                        Contains(std::to_string(chats.vocabulary)) &&
                                        Contains("data.tokenizer: bytes"));
  const std::string golden = environment("LONGHAUL_TEST_DATA") + "/golden/tokenizers/llama3";
  // Another tokenizer has no template beside it, and more ids than the model.
  CHECK_THAT(refused(chats.load({"data.tokenizer=" + golden})),
             Contains("chats.jsonl:1") && Contains("no chat template"));
  CHECK_THAT(refused(chats.load({"data.tokenizer=" + golden, "data.chat_format=gemma", "data.packing=none",
                                 "data.mask_prompt=true", "data.train_on=all"})),
             Contains("no line has a prompt"));
  CHECK_THAT(refused(chats.load({"data.tokenizer=" + (chats.folder / "nowhere")})), Contains("nowhere"));
}

TEST_CASE("a word of data.tokenizer is no path, and a path is beside the experiment", "[libraries]") {
  const Chats chats;
  CHECK(chats.load().data.tokenizer == "auto");
  CHECK(chats.load({"data.tokenizer=bytes"}).data.tokenizer == "bytes");
  const Experiment named =
      parse_experiment("model: {config: m.json}\ndata: {tokenizer: other/tokenizer.json}\n", "/somewhere/run.yaml");
  CHECK(named.data.tokenizer == "/somewhere/other/tokenizer.json");
  CHECK(parse_experiment(to_yaml(named), "/elsewhere/run.yaml") == named);
}

TEST_CASE("configs/finetune.yaml learns the chats of scripts/chat_example.sh on four ranks, from weights and on",
          "[threads][libraries]") {
  const longhaul_test::TemporaryFolder folder;
  const std::string source = environment("LONGHAUL_SOURCE"), data = folder / "data";
  const std::string command = source + "/scripts/chat_example.sh " + data + " " + environment("LONGHAUL_BINARY") +
                              " > " + (folder / "log") + " 2>&1";
  REQUIRE(std::system(command.c_str()) == 0);
  const Experiment experiment =
      load_experiment(source + "/configs/finetune.yaml",
                      {"model.config=" + data + "/small-model", "model.weights=" + data + "/small-model",
                       "data.files=" + data + "/chats.jsonl", "job.folder=" + (folder / "run"), "training.steps=12",
                       "training.threads=1"});
  const std::vector<double> all = losses(experiment, 4);
  REQUIRE(all.size() == 12);
  CHECK(all.back() < all.front() - 0.2);
  // The export can be tuned again: model, tokenizer and template stand in it.
  CHECK(fs::exists(folder / "run/export/tokenizer.json"));
  CHECK(ChatFormat::of_folder(folder / "run/export")->name() == "chatml");
}
