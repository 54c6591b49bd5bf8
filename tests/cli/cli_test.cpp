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
#include "verify/faults.h"

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
  expect("verify " + file + " --ranks 2 --locate --fault averaged_gradient", 1,
         {"the fault averaged_gradient is planted", "NOT verified", "located: ", "lower_reshards"});
  expect("verify " + file + " --ranks 2 --fault averaged", 1, {"--fault is 'averaged'", "averaged_gradient"});
  // Here no rank passes blocks to the next.
  expect("verify " + file + " --ranks 2 --fault expand_ring", 0, {"found no place", "verified: "});
}

TEST_CASE("only verify plants faults, and its help lists them") {
  const Result help = run("verify --help");
  CHECK(help.code == 0);
  for (const Fault& fault : faults()) {
    INFO(fault.name);
    CHECK(help.output.find(fmt::format("\n  {} ", fault.name)) != std::string::npos);
    CHECK(help.output.find(fault.meaning) != std::string::npos);
  }
  const SmallExperiment small(small_llama());
  const std::string file = small.file().string();
  for (const auto& [command, code] : {std::pair{"train ", 2}, {"compile ", 2}, {"bench step ", 1}})
    expect(command + file + " --fault averaged_gradient", code, {"--fault"});
  ::setenv("LONGHAUL_FAULT", "averaged_gradient", 1);
  for (const std::string command : {"train ", "verify "})
    expect(command + file, 1, {"environment variable LONGHAUL_FAULT is not one"});
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

TEST_CASE("bench kernels checks what it times") {
  expect("bench kernels --op attention_backward --shape \"s=130 h=4 kv=2 d=64 documents=3\" --dtype bf16 --repeat 1", 0,
         {"attention_backward", "d=64", "dtype=bfloat16", "error", "GFLOP/s", "of peak", "CPU/wall"});
  expect("bench kernels --op matmul --shape \"m=65 n=33,64 k=40\" --repeat 2 --threads 2 --compare onednn", 0,
         {"n=33", "n=64", "threads=2", "GFLOP/s"});
  expect("bench kernels --op add --shape count=1001 --repeat 1", 0, {"GB/s", "of bandwidth"});
  expect("bench kernels --op attention_forward --dtype float16", 1, {"dtype=float16", "bfloat16"});
  expect("bench kernels --op attention_forward --shape \"h=3 kv=2\"", 1, {"h=3 is no multiple of kv=2"});
  expect("bench kernels --op atention", 1, {"no op atention", "attention_forward", "rms_norm"});
  expect("bench kernels --op rope --shape length=3", 1, {"no length", "n=", "rotary="});
  expect("bench kernels --op rope --shape n", 1, {"'n' is not key=value"});
  expect("bench kernels --op rope --compare cublas", 1, {"--compare is cublas", "onednn and openblas"});
  expect("bench kernels --device gpu", 1, {"--device is gpu", "cpu, cuda, emulator, plain"});
}

TEST_CASE("problem files are read line by line, and errors name the line") {
  const std::string file = (std::filesystem::temp_directory_path() / "longhaul-problems.txt").string();
  const auto write = [&](const char* text) { std::ofstream(file) << text; };
  write("# two problems\nadd count=10,20  # small\n\ncast to=bfloat16 count=5\n");
  expect("bench kernels --check-only --problems " + file, 0, {"add", "count=10 ", "count=20 ", "cast"});
  expect("bench kernels --check-only --op cast --problems " + file, 0, {"cast"});
  write("add count=10\nad count=10\n");
  expect("bench kernels --check-only --problems " + file, 1, {"longhaul-problems.txt:2", "no op ad"});
  write("add count=10 count=12\n");
  expect("bench kernels --check-only --problems " + file, 1, {"longhaul-problems.txt:1", "count is given twice"});
  write("# nothing\n");
  expect("bench kernels --check-only --problems " + file, 1, {"holds no problem"});
  std::filesystem::remove(file);
  expect("bench kernels --problems " + file, 1, {"cannot read the problem file"});
}

TEST_CASE("bench step trains without writing anything") {
  const SmallExperiment small(small_llama());
  const Result result = run("bench step " + small.file().string() + " --steps 2 training.threads=1");
  INFO(result.output);
  CHECK(result.code == 0);
  for (const char* text : {"losses", "seconds a step", "fraction of peak", "einsum", "attention_gradient"})
    CHECK(result.output.find(text) != std::string::npos);
}
