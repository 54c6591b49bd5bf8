// Every example in the documents on data, of generation and in README.md is run: commands by a shell in a folder that
// looks like a checkout with what they name, experiments by `longhaul train`. An example that cannot be run here stands
// in a list with the reason; one that is in neither fails the test.
#include <catch2/catch.hpp>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "../cli/program.h"
#include "base/environment.h"
#include "base/json.h"
#include "data/tokenize.h"
#include "tokenizer/tokenizer.h"

using namespace longhaul;
using namespace longhaul::testing;
using Catch::Contains;

namespace {

fs::path source(const std::string& name) {
  return fs::path(environment("LONGHAUL_SOURCE")) / name;
}

struct Example {
  std::string document, language, text;
  int line = 0;  // of its first line
};

std::vector<Example> examples_of(const std::string& document) {
  std::vector<Example> all;
  std::ifstream file(source(document));
  std::optional<Example> open;
  int number = 0;
  for (std::string line; std::getline(file, line);) {
    ++number;
    if (line.starts_with("```")) {
      if (open) {
        all.push_back(*open);
        open.reset();
      } else {
        open = Example{document, line.substr(3), "", number + 1};
      }
    } else if (open) {
      open->text += line + "\n";
    }
  }
  REQUIRE_FALSE(open);
  return all;
}

// What is not run, by a part of the example; and why, or what runs it.
struct NotRun {
  std::string document, part, reason;
};
const std::vector<NotRun> not_run = {
    {"README.md", "scripts/train.sh     # installs", "installs packages and builds; .ci/run builds, and trains by it"},
    {"README.md", "cmake --install build", "tests/cli/install_test.cpp installs and runs what is installed"},
    {"README.md", "mpirun --oversubscribe", "needs launchers; tests/cli/mpi_test.cpp and tests/slurm run these"},
    {"docs/data.md", "compare.py build/longhaul --characters", "needs the packages that it compares with"},
    {"docs/data.md", "compare.py build/longhaul /usr/share", "needs the packages that it compares with"},
};

std::string quoted(const fs::path& path) {
  return "'" + path.string() + "'";
}

// A folder like a checkout, with the program, and the files that examples name.
class Checkout {
 public:
  Checkout() {
    for (const char* folder : {"build", "bin", "data", "runs", "models", "texts", "web"})
      fs::create_directories(place / folder);
    for (const char* link : {"build/longhaul", "bin/longhaul"})
      fs::create_symlink(environment("LONGHAUL_BINARY"), place / link);
    for (const char* folder : {"scripts", "tests"}) fs::create_directory_symlink(source(folder), place / folder);
    fs::copy(source("configs"), place / "configs", fs::copy_options::recursive);
  }
  fs::path operator/(const std::string& name) const { return place / name; }

  Ended run(const std::string& commands, double seconds = 300) const {
    return Program(place / "log",
                   {"bash", "-euo", "pipefail", "-c",
                    "cd " + quoted(place / "") + "\nexport PATH=" + quoted(place / "bin") + ":$PATH\n" + commands})
        .wait(seconds);
  }
  void must_run(const std::string& commands) const { check_end(run(commands), 0, {}); }

  // A Hugging Face folder with a tokenizer and a chat template.
  void model(const std::string& folder) const {
    nlohmann::ordered_json config = Workplace::llama();
    config["vocab_size"] = load_tokenizer(source("tests/golden/tokenizers/qwen2"))->vocabulary_size();
    config["max_position_embeddings"] = 1024;
    fs::create_directories(place / folder);
    write_file(place / (folder + "/config.json"), config.dump());
    fs::copy_file(source("tests/golden/tokenizers/qwen2/tokenizer.json"), place / (folder + "/tokenizer.json"));
    write_file(place / (folder + "/chat_template.jinja"),
               "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{{ '' }}{% endfor %}");
  }
  // Lines of text, of prompts with completions, of chats.
  void lines(const std::string& file, const std::string& kind, int count = 60) const {
    std::string all;
    for (int i = 0; i < count; ++i) {
      const std::string question = "What is " + std::to_string(i) + " plus one?", answer = std::to_string(i + 1) + ".";
      nlohmann::ordered_json line;
      if (kind == "text") line = {{"text", question + " It is " + answer}};
      if (kind == "prompt") line = {{"prompt", question}, {"completion", answer}};
      if (kind == "chat")
        line["messages"] = {{{"role", "user"}, {"content", question}}, {{"role", "assistant"}, {"content", answer}}};
      all += line.dump() + "\n";
    }
    write_file(place / file, all);
  }
  void text(const std::string& file, int count = 400) const {
    std::string all;
    for (int i = 0; i < count; ++i) all += "Line " + std::to_string(i) + " of " + file + ".\n";
    write_file(place / file, all);
  }
  // Writes the experiment, with what it leaves out, and trains two short steps of it in `run`.
  Ended train(const std::string& yaml, const std::vector<std::string>& overrides, const std::string& folder,
              int ranks = 1) const {
    write_file(place / "example.yaml", yaml);
    std::string command = "longhaul train example.yaml --ranks " + std::to_string(ranks) + " job.folder=runs/" +
                          folder + " training.steps=2 training.threads=1";
    for (const auto& one : overrides) command += " '" + one + "'";
    const Ended ended = run(command);
    CHECK_FALSE(Contains("of data.format").match(ended.output));  // the example names a file of another kind
    return ended;
  }

  Workplace place;
};

nlohmann::json last_metrics(const fs::path& run) {
  std::string last;
  std::ifstream file(run / "metrics.jsonl");
  for (std::string line; std::getline(file, line);) last = line;
  return nlohmann::json::parse(last);
}

// Every example of a document that is of a language and not on the list, at least one.
std::vector<Example> to_run(const std::string& document, const std::string& language) {
  std::vector<Example> all;
  for (const Example& one : examples_of(document)) {
    if (one.language != language) continue;
    const bool listed = std::any_of(not_run.begin(), not_run.end(), [&](const NotRun& other) {
      return other.document == document && one.text.find(other.part) != std::string::npos;
    });
    if (!listed) all.push_back(one);
  }
  return all;
}

}  // namespace

TEST_CASE("every example of the documents says what it is, and those that no test runs are listed with the reason") {
  const std::set<std::string> languages = {"sh",       // commands: run below
                                           "yaml",     // experiments: run below
                                           "console",  // commands with what they print: run below
                                           "cmake",    // tests/cli/install_test.cpp builds with it
                                           "text"};    // what a program prints, or a folder holds
  std::map<std::string, int> listed;
  for (const char* document : {"README.md", "docs/data.md", "docs/generation.md"})
    for (const Example& one : examples_of(document)) {
      INFO(document << ":" << one.line);
      CHECK(languages.contains(one.language));
      int reasons = 0;
      for (const NotRun& other : not_run)
        if (other.document == document && one.text.find(other.part) != std::string::npos) {
          ++listed[other.part];
          ++reasons;
          std::cout << document << ":" << one.line << " is not run: " << other.reason << "\n";
        }
      CHECK(reasons <= 1);
    }
  for (const NotRun& one : not_run) {
    INFO(one.part);
    CHECK(listed[one.part] == 1);
  }
  for (const char* named : {"tests/cli/install_test.cpp", "tests/cli/mpi_test.cpp", "tests/slurm/test.sh",
                            "tests/golden/tokenizers/compare.py", ".ci/run"})
    CHECK(fs::exists(source(named)));
}

TEST_CASE("the commands of docs/data.md make the token files that they say", "[threads][libraries]") {
  const Checkout checkout;
  checkout.model("model_folder");
  checkout.lines("texts/a.jsonl", "text");
  checkout.lines("texts/b.jsonl", "prompt");
  checkout.text("notes.txt");
  checkout.must_run("zstd -q --rm texts/*.jsonl");
  const std::vector<Example> examples = to_run("docs/data.md", "sh");
  REQUIRE(examples.size() == 2);  // the other is run with the experiments, of which it names one
  checkout.must_run(examples[0].text);
  for (const char* file : {"data/train.ds", "data/train.ds.index", "data/train.ds.metadata", "data/train.ds.loss"})
    CHECK(fs::exists(checkout / file));
  // A document a line and a file.
  CHECK(fs::file_size(checkout / "data/train.ds.index") == 8 * (60 + 60 + 1));
}

TEST_CASE("the experiments of docs/data.md are trained, and write what they say", "[threads][libraries]") {
  const Checkout checkout;
  checkout.model("models/my-llama");
  checkout.lines("chats.jsonl", "prompt");
  checkout.text("books.txt");
  checkout.text("train.txt");
  checkout.text("held-out.txt");
  for (const char* out :
       {"web/one --format datatrove", "web/two --format datatrove", "a --format npy", "b --format npy"})
    checkout.must_run(std::string("longhaul tokenize --tokenizer models/my-llama train.txt -o ") + out);
  const std::vector<std::string> given = {"model.config=models/my-llama", "training.seq_len=32",
                                          "training.global_batch_size=10"};
  const std::vector<Example> examples = to_run("docs/data.md", "yaml");
  REQUIRE(examples.size() == 2);

  REQUIRE_THAT(examples[0].text, Contains("sources:"));
  check_end(checkout.train(examples[0].text, given, "mixture"), 0, {});
  const nlohmann::json mixture = last_metrics(checkout / "runs/mixture");
  for (const char* source : {"web", "chats", "code"}) {
    INFO(mixture.dump());
    CHECK(mixture.contains(std::string("loss.") + source));
  }
  checkout.lines("chats.jsonl", "chat");
  REQUIRE_THAT(examples[1].text, Contains("validation:"));
  std::vector<std::string> with_files = given;
  with_files.push_back("data.files=train.txt");
  check_end(checkout.train(examples[1].text, with_files, "a"), 0, {});
  const nlohmann::json sets = last_metrics(checkout / "runs/a");
  INFO(sets.dump());
  for (const char* name : {"validation_loss", "validation_loss.books", "validation_loss.chats"})
    CHECK(sets.contains(name));
  CHECK(sets.contains("validation_loss_by_position"));

  // And commands that evaluate it.
  write_file(checkout / "my.yaml",
             examples[1].text + "model: {config: models/my-llama}\ntraining: {seq_len: 32, threads: 1}\n");
  const Ended evaluated = checkout.run(to_run("docs/data.md", "sh").at(1).text);
  check_end(evaluated, 0, {"books", "chats", "perplexity", "\"perplexity\":"});

  // The listing of the run folder: each kind of file is there.
  std::set<std::string> endings;
  for (const auto& entry : fs::directory_iterator(checkout / "runs/a/tokens")) {
    const std::string name = entry.path().filename();
    endings.insert(name.substr(name.find('.')));
  }
  std::string listing;
  for (const Example& one : examples_of("docs/data.md"))
    if (one.language == "text" && one.text.find("/tokens/<key>") != std::string::npos) listing += one.text;
  for (const char* ending : {".ds", ".ds.index", ".ds.loss", ".ds.metadata", ".json"}) {
    INFO(ending);
    CHECK(endings.contains(ending));
    CHECK_THAT(listing, Contains(ending));
  }
}

TEST_CASE("the examples of docs/generation.md go on with a text", "[threads]") {
  const Checkout checkout;
  checkout.text("text.txt");
  nlohmann::ordered_json config = Workplace::llama();
  config["max_position_embeddings"] = 1024;
  write_file(checkout / "model.json", config.dump());
  check_end(checkout.train("model: {config: model.json}\ndata: {files: [text.txt]}\n",
                           {"training.seq_len=32", "training.global_batch_size=4"}, "quickstart"),
            0, {});
  const std::vector<Example> examples = to_run("docs/generation.md", "sh");
  REQUIRE(examples.size() == 1);
  const Ended ended = checkout.run(examples[0].text);
  check_end(ended, 0, {"ROMEO:"});
  // A part of an experiment.
  const std::vector<Example> parts = to_run("docs/generation.md", "yaml");
  REQUIRE(parts.size() == 1);
  check_end(checkout.train("model: {config: model.json}\ndata: {files: [text.txt]}\n" + parts[0].text,
                           {"training.seq_len=32", "training.global_batch_size=4"}, "sampled"),
            0, {});
  const std::vector<Example> sampling = to_run("docs/generation.md", "yaml");
  REQUIRE(sampling.size() == 1);
  check_end(checkout.train("model: {config: model.json}\ndata: {files: [text.txt]}\n" + sampling[0].text,
                           {"training.seq_len=32", "training.global_batch_size=4"}, "sampled"),
            0, {"ROMEO:"});
  CHECK(lines_of(checkout / "runs/sampled/samples.jsonl") == 2);
}

TEST_CASE("the examples of README.md are run", "[threads][libraries]") {
  const Checkout checkout;
  int tuned = 0, experiments = 0, commands = 0;
  // An experiment first: commands name its file.
  for (const Example& one : to_run("README.md", "yaml")) {
    INFO("README.md:" << one.line);
    ++experiments;
    checkout.model("models/my-llama");
    checkout.text("text.txt", 8000);  // a sample of the longest example
    for (const char* part : {"data/part-000", "data/part-001", "data/validation"})
      checkout.must_run(std::string("longhaul tokenize --tokenizer models/my-llama text.txt --format llmc -o ") + part);
    check_end(checkout.train(one.text, {"training.seq_len=64"}, "my", 4), 0, {});
    fs::rename(checkout / "example.yaml", checkout / "my.yaml");
  }
  CHECK(experiments == 1);
  for (const Example& one : to_run("README.md", "sh")) {
    INFO("README.md:" << one.line << "\n" << one.text);
    ++commands;
    const bool tunes = one.text.find("configs/finetune.yaml") != std::string::npos;
    const Ended ended = checkout.run(one.text);
    check_end(ended, 0, {});
    if (!tunes) continue;
    ++tuned;
    // "in five lines", and the model learns: sums of the chats that the script made.
    CHECK(std::count(one.text.begin(), one.text.end(), '\n') <= 5);
    std::vector<double> losses;
    for (const auto& [step, loss] : losses_of(checkout / "runs/finetune")) losses.push_back(loss);
    REQUIRE(losses.size() == 60);
    CHECK(losses.back() < losses.front() / 2);
    CHECK_THAT(ended.output, Contains("plus"));
  }
  CHECK(tuned == 1);
  CHECK(commands >= 2);

  // What verify prints: its numbers are of the model, its last line is not.
  checkout.text("tiny.txt");
  write_file(checkout / "tiny-model.json", Workplace::llama().dump());
  write_file(checkout / "tiny.yaml",
             "model: {config: tiny-model.json}\ndata: {files: [tiny.txt]}\n"
             "training: {seq_len: 16, global_batch_size: 2, threads: 1}\n");
  int shown = 0;
  for (const Example& one : to_run("README.md", "console")) {
    INFO("README.md:" << one.line);
    ++shown;
    REQUIRE(one.text.starts_with("$ "));
    const std::string command = one.text.substr(2, one.text.find('\n') - 2);
    std::string last;
    std::istringstream lines(one.text);
    for (std::string line; std::getline(lines, line);) last = line;
    check_end(checkout.run(command), last.starts_with("NOT") ? 1 : 0,
              {last.substr(0, last.find_first_of("0123456789"))});
  }
  CHECK(shown == 2);
}
