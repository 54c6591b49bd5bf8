// What no experiment is meant to hold, and paths as users write them: refused at once, with what to do.
#include <catch2/catch.hpp>
#include <chrono>
#include <filesystem>

#include "../io/temporary.h"
#include "base/error.h"
#include "config/experiment.h"

using namespace longhaul;
using namespace longhaul_test;
using Catch::Contains;

namespace {

std::string message(const std::string& text, const std::vector<std::string>& overrides = {},
                    const std::string& file = "/somewhere/run.yaml") {
  const auto begin = std::chrono::steady_clock::now();
  const std::string said = message_of([&] { parse_experiment(text, file, overrides); });
  CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds(5));
  return said;
}

const std::string minimal = "model: {config: m.json}\n";

}  // namespace

TEST_CASE("YAML beyond any experiment is refused at once") {
  for (const char* text : {",", ", a: 1", "]", "}", "a: ]\n", "training: {}\n,\n"}) CHECK_FALSE(message(text).empty());
  CHECK_THAT(message(minimal, {"training.steps=,1"}), Contains("training.steps=,1"));
  CHECK_THAT(message("--- {}\n--- {}\n"), Contains("more than one YAML document"));
  CHECK_THAT(message("model: " + std::string(300, '[')),
             Contains("nested deeper than 16") || Contains("not valid YAML"));
  CHECK_FALSE(message("model: " + std::string(100'000, '[')).empty());
  CHECK_FALSE(message("model: " + std::string(100'000, '{')).empty());
  std::string keys;
  for (int i = 0; i < 200'000; ++i) keys += "k" + std::to_string(i) + ": 1\n";
  CHECK_THAT(message(keys), Contains("more than 100000 values"));
  CHECK_THAT(message("a: &x [1]\nb: *x\n"), Contains(":2:") && Contains("alias"));
  CHECK_THAT(message("data:\n  files: *.txt\n"), Contains(":2:") && Contains("write a pattern in quotes"));
  CHECK_THAT(message("model:\n\tconfig: m\n"), Contains("line 2 begins with a tab"));
  CHECK_FALSE(message(std::string(5000, 'n') + ": {}").empty());
  CHECK_THAT(message(std::string(1000, 'n') + ": {}"), Contains("unknown section"));
  CHECK_THAT(message("model: {config: " + std::string(100, '[') + "}", {}, "/s/run.json"), Contains("not valid JSON"));
  CHECK_THAT(message(std::string(100'000, '['), {}, "/s/run.json"), Contains("nested deeper than 64"));
}

TEST_CASE("numbers beyond their limits are refused, not cut") {
  for (const char* one : {"training.steps=9223372036854775807", "training.global_batch_size=9223372036854775807",
                          "checkpoint.keep_latest_k=4294967297", "validation.steps=9223372036854775807",
                          "checkpoint.interval=9223372036854775807", "device.memory=1e300",
                          "training.seq_len=99999999999999999999", "metrics.log_freq=1e18"})
    CHECK_THAT(message(minimal, {one}), Contains("must be an integer") || Contains("must be a number"));
}

TEST_CASE("a pattern on the command line needs no quotes") {
  const Experiment e = parse_experiment(minimal, "/somewhere/run.yaml", {"data.files=*.txt"});
  CHECK(e.data.files == std::vector<std::filesystem::path>{std::filesystem::current_path() / "*.txt"});
  CHECK(parse_experiment(minimal, "/s/run.yaml", {"data.files=\"*.txt\""}).data.files == e.data.files);
}

TEST_CASE("what only a shell expands is refused where no such file is") {
  CHECK_THAT(message("model: {config: ~/m.json}"), Contains("model.config") && Contains("~ is not expanded"));
  CHECK_THAT(message(minimal, {"data.files=$HOME/d.txt"}), Contains("data.files") && Contains("$NAME is not expanded"));
  CHECK_THAT(message(minimal, {"job.folder=${SCRATCH}/run"}), Contains("job.folder") && Contains("not expanded"));
  TemporaryFolder folder;
  write_bytes(folder / "$a", "");
  write_bytes(folder / "~b", "");
  const Experiment e = parse_experiment("model: {config: $a, weights: ~b}", folder / "run.yaml");
  CHECK(e.model.config == folder / "$a");
}
