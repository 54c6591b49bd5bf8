// The built program, from outside: exit codes and messages.
#include <stdlib.h>
#include <sys/wait.h>

#include <array>
#include <catch2/catch.hpp>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <regex>
#include <sstream>

#include "../train/small_experiment.h"
#include "../train/small_models.h"
#include "base/environment.h"
#include "base/error.h"
#include "cli/command.h"
#include "passes/pass.h"

using namespace longhaul;
using namespace longhaul::testing;

namespace {

struct Result {
  int code = -1;
  std::string output;  // both streams
};

Result run(const std::string& arguments) {
  const std::string program = environment("LONGHAUL_BINARY");
  if (program.empty()) throw std::runtime_error("run by ctest, or set LONGHAUL_BINARY to the longhaul program");
  FILE* pipe = ::popen(("\"" + program + "\" " + arguments + " 2>&1").c_str(), "r");
  if (!pipe) throw std::runtime_error("popen failed");
  Result result;
  std::array<char, 4096> buffer;
  for (std::size_t n; (n = std::fread(buffer.data(), 1, buffer.size(), pipe)) > 0;)
    result.output.append(buffer.data(), n);
  const int status = ::pclose(pipe);
  result.code = WIFEXITED(status) ? WEXITSTATUS(status) : 255;
  return result;
}

void expect(const std::string& arguments, int code, const std::vector<std::string>& says) {
  const Result result = run(arguments);
  INFO(arguments << "\n" << result.output);
  CHECK(result.code == code);
  for (const auto& text : says) CHECK(result.output.find(text) != std::string::npos);
}

std::string source(const std::string& name) {
  return environment("LONGHAUL_SOURCE") + "/" + name;
}

std::int64_t number_after(const std::string& text, const std::string& before) {
  std::smatch match;
  if (!std::regex_search(text, match, std::regex(before + "(\\d+)"))) return -1;
  return std::stoll(match[1]);
}

}  // namespace

TEST_CASE("help and version") {
  expect("--help", 0, {"train", "verify", "inspect", "compile", "--version"});
  for (const auto& command : cli::commands())
    expect(std::string(command.name) + " --help", 0, {command.name, "--help"});
  expect("--version", 0, {"longhaul ", "cpu", "threads"});
}

TEST_CASE("a wrong command line exits 2") {
  expect("", 2, {"command is missing", "compile"});
  expect("tarin", 2, {"tarin", "did you mean train?"});
  expect("--frobnicate", 2, {"--frobnicate"});
  expect("train", 2, {"experiment"});
  expect("train x.yaml --ranks zero", 2, {"--ranks"});
  expect("train x.yaml --ranks 0", 2, {"--ranks"});
  expect("train x.yaml stray", 2, {"stray", "section.key=value"});
  expect("verify x.yaml --locat", 2, {"--locat"});
  expect("inspect", 2, {"model"});
  expect("inspect x.json y.json", 2, {"y.json"});
}

TEST_CASE("what a user can mend exits 1 and names it") {
  for (const std::string command : {"train", "verify", "compile"})
    expect(command + " /nowhere/experiment.yaml", 1, {"/nowhere/experiment.yaml"});
  expect("inspect /nowhere/model.json", 1, {"/nowhere/model.json"});
  const SmallExperiment small(small_llama());
  const std::string file = small.file().string();
  expect("train " + file + " training.step=3", 1, {"training.step", "training.steps"});
  expect("train " + file + " --training.seq_lem=3", 1, {"seq_lem", "seq_len"});
  expect("compile " + file + " --ranks 3 parallelism.sequence=3", 1, {"parallelism.sequence", "4 query heads"});
  expect("verify " + file + " data.files=[/nowhere/text.txt]", 1, {"/nowhere/text.txt"});
  expect("verify " + file + " training.steps=many", 1, {"training.steps", "many"});
}

TEST_CASE("verify by its exit code") {
  const SmallExperiment small(small_llama());
  const std::string file = small.file().string();
  expect("verify " + file + " --ranks 2", 0, {"verified: ", "grad_norm", "gradient.embedding.tokens"});
  ::setenv("LONGHAUL_FAULT", "averaged_gradient", 1);
  expect("verify " + file + " --ranks 2 --locate", 1, {"NOT verified", "located: ", "lower_reshards"});
  ::setenv("LONGHAUL_FAULT", "averaged", 1);
  expect("verify " + file + " --ranks 2", 1, {"LONGHAUL_FAULT", "averaged_gradient"});
  ::unsetenv("LONGHAUL_FAULT");
}

TEST_CASE("inspect") {
  expect("inspect " + source("configs/models/llama-3.1-8b.json"), 0,
         {"8,030,261,248", "\"model_type\": \"longhaul\"", "131072", "layers 0 to 31", "bfloat16"});
  const Result spec = run("inspect --spec " + source("configs/models/llama-3.1-8b.json"));
  CHECK(spec.code == 0);
  CHECK(spec_from_json(nlohmann::json::parse(spec.output), "inspect").layer_count() == 32);
}

TEST_CASE("compile needs no data, writes what it is asked for, and its peak is what train allocates") {
  const SmallExperiment small(small_qwen3());
  const std::string file = small.file().string(), folder = small.folder().string();
  for (const std::string options : {"training.dtype=bfloat16", "training.dtype=float32 training.global_batch_size=8"}) {
    const Result compiled = run("compile " + file + " --ranks 2 " + options + " data.files=[/nowhere.txt] --dump-ir " +
                                folder + "/ir --dot " + folder + "/graph.dot");
    INFO(compiled.output);
    REQUIRE(compiled.code == 0);
    const std::int64_t planned = number_after(compiled.output, "memory of a rank: ");
    CHECK(planned > 0);
    for (const std::string& name :
         std::vector<std::string>{"ir/memory.txt", "ir/update.program", "ir/update.00.model.ir",
                                  fmt::format("ir/update.{:02}.{}.ir", pipeline().size(), pipeline().back().name),
                                  "ir/count.program", "graph.dot"})
      CHECK(std::filesystem::file_size(small.folder() / name) > 10);
    const std::string run_folder = folder + "/run-" + std::to_string(planned);
    const Result trained =
        run("train " + file + " --ranks 2 " + options + " training.steps=1 job.folder=" + run_folder);
    INFO(trained.output);
    REQUIRE(trained.code == 0);
    CHECK(number_after(trained.output, "memory: ") == planned);
    std::ifstream metrics(run_folder + "/metrics.jsonl");
    std::string line;
    REQUIRE(std::getline(metrics, line));
    CHECK(nlohmann::json::parse(line)["peak_memory_bytes"] == planned);
    std::filesystem::remove_all(folder + "/ir");
  }
  ::setenv("LONGHAUL_DUMP", (folder + "/dump").c_str(), 1);
  expect("compile " + file + " --ranks 2", 0, {"/dump"});
  ::unsetenv("LONGHAUL_DUMP");
  CHECK(std::filesystem::exists(small.folder() / "dump/accumulate_only.program"));
}

TEST_CASE("bench attention checks what it times") {
  for (const char* dtype : {"float32", "bfloat16"})
    expect(std::string(
               "bench attention --tokens 130 --heads 4 --kv-heads 2 --head-dim 64 --documents 3 --repeat 1 --dtype ") +
               dtype,
           0, {"attention_gradient", "error", "of the " + std::string(dtype) + " peak"});
  expect("bench attention --dtype float16", 1, {"--dtype is float16", "float32 and bfloat16"});
  expect("bench attention --heads 3 --kv-heads 2", 1, {"--kv-heads 2"});
}

TEST_CASE("bench step trains without writing anything") {
  const SmallExperiment small(small_llama());
  const Result result = run("bench step " + small.file().string() + " --steps 2 training.threads=1");
  INFO(result.output);
  CHECK(result.code == 0);
  for (const char* text : {"losses", "seconds a step", "fraction of peak", "einsum", "attention_gradient"})
    CHECK(result.output.find(text) != std::string::npos);
}
