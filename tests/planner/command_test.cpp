// The commands, from outside: what they refuse, what they write, and that docs/long-context.md shows what they print.
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <regex>
#include <sstream>

#include <sys/wait.h>
#include <unistd.h>

#include "base/environment.h"
#include "tests/train/small_experiment.h"
#include "tests/train/small_models.h"

using namespace longhaul;
using namespace longhaul::testing;
using Catch::Matchers::Contains;

namespace {

std::string source() {
  return environment("LONGHAUL_SOURCE");
}

// `command` in a shell in the source folder, `longhaul` being the built program; both streams.
std::pair<int, std::string> shell(const std::string& command) {
  const std::string program = environment("LONGHAUL_BINARY");
  REQUIRE_FALSE(program.empty());
  const std::string script = "cd '" + source() + "' && longhaul() { '" + program + "' \"$@\"; }\n" + command;
  const std::string file = std::filesystem::temp_directory_path() / ("longhaul-plan-" + std::to_string(::getpid()));
  std::ofstream(file) << script;
  FILE* pipe = ::popen(("bash '" + file + "' 2>&1").c_str(), "r");
  REQUIRE(pipe);
  std::string output;
  std::array<char, 4096> buffer;
  for (std::size_t n; (n = std::fread(buffer.data(), 1, buffer.size(), pipe)) > 0;) output.append(buffer.data(), n);
  const int status = ::pclose(pipe);
  std::filesystem::remove(file);
  return {WEXITSTATUS(status), output};
}

std::string text_of(const std::filesystem::path& file) {
  std::ifstream stream(file);
  std::ostringstream text;
  text << stream.rdbuf();
  return text.str();
}

// Words equal; numbers within 2 %: scratch depends on the processor's kernels.
void check_alike(const std::string& shown, const std::string& printed) {
  static const std::regex number(R"(\d+(\.\d+)?)");
  CHECK(std::regex_replace(shown, number, "#") == std::regex_replace(printed, number, "#"));
  const auto numbers = [](const std::string& text) {
    std::vector<double> list;
    for (std::sregex_iterator at(text.begin(), text.end(), number), end; at != end; ++at)
      list.push_back(std::stod(at->str()));
    return list;
  };
  const std::vector<double> a = numbers(shown), b = numbers(printed);
  REQUIRE(a.size() == b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    INFO("number " << i << " of: " << printed);
    CHECK(std::abs(a[i] - b[i]) <= 0.02 * std::max(a[i], b[i]) + 0.11);
  }
}

// Runs every command of a section and what is behind it, and compares what they print; how many there are.
int check_commands(const std::string& file, const std::string& heading, const std::string& end_heading = "") {
  std::string document = text_of(source() + file);
  const std::size_t section = document.find(heading);
  REQUIRE(section != std::string::npos);
  if (!end_heading.empty()) document.resize(document.find(end_heading, section));
  int commands = 0;
  for (std::size_t at = document.find("```\n$ ", section); at != std::string::npos;
       at = document.find("```\n$ ", at + 1)) {
    const std::size_t begin = at + 6, end = document.find("\n```", begin);
    const std::string block = document.substr(begin, end - begin);
    std::size_t line = block.find('\n');
    while (line != std::string::npos && line > 0 && block[line - 1] == '\\') line = block.find('\n', line + 1);
    REQUIRE(line != std::string::npos);
    const std::string command = block.substr(0, line), shown = block.substr(line + 1) + "\n";
    INFO(command);
    const auto [code, printed] = shell(command);
    CHECK(code == 0);
    check_alike(shown, printed);
    ++commands;
  }
  return commands;
}

}  // namespace

TEST_CASE("documents show what their commands print", "[threads]") {
  CHECK(check_commands("/docs/long-context.md", "## Planning before a job is queued") >= 5);
  CHECK(check_commands("/docs/parallelism.md", "## Communication beside computation", "\n## Proven") == 2);
}

TEST_CASE("plan refuses what it cannot do with what is allowed") {
  const SmallExperiment small(small_llama());
  const std::string plan = "longhaul plan '" + small.file().string() + "' training.dtype=bfloat16 ";
  const auto refused = [&](const std::string& arguments, const std::string& message) {
    const auto [code, output] = shell(plan + arguments);
    INFO(output);
    CHECK(code == 1);
    CHECK_THAT(output, Contains(message));
  };
  refused("--ranks 8 --ranks-per-host 3", "--ranks-per-host is 3; it must divide the 8 ranks that --ranks asks for");
  refused("--ranks 2 --cluster /nowhere.json", "/nowhere.json");
  refused("--ranks 2 --cluster '" + (small.folder() / "model.json").string() + "'", "name is missing");
  refused("--ranks 2 --max-seq-len", "nothing says how much there is: give device.memory in GiB");
  refused("--ranks 2 activation_memory.budget=0.5",
          "give device.memory in GiB, a device.profile, or the budget in bytes");
  refused("--ranks 2 training.dtype=float64 --cluster configs/clusters/h100-80gb.json",
          "the profile h100-80gb has no products of float64");
  refused("--ranks 2 device.memory=1e-5 training.seq_len=4096", "device.memory leaves a rank");
  const auto [code, output] = shell(plan + "--ranks 2 device.memory=1e-3 training.seq_len=65536 --max-seq-len");
  CHECK(code == 0);
  CHECK_THAT(output, Contains("device.memory leaves a rank") && Contains("longest sequence that fits: "));
}

TEST_CASE("plan prints one JSON object, and draws the timeline where it is told to") {
  const SmallExperiment small(small_llama());
  const std::string picture = (small.folder() / "timeline.svg").string();
  const auto [code, output] =
      shell("longhaul plan '" + small.file().string() +
            "' --ranks 16 training.dtype=bfloat16 parallelism.sequence='{ulysses: 4}' --cluster "
            "configs/clusters/a100-80gb.json --json --memory-timeline '" +
            picture + "'");
  INFO(output);
  REQUIRE(code == 0);
  const auto json = nlohmann::json::parse(output);
  CHECK(json["ranks"] == 16);
  CHECK(json["ranks_per_host"] == 8);  // as the profile says
  CHECK(json["predicted"]["profile"] == "a100-80gb");
  CHECK(json["memory"]["limit"] == 80'000'000'000);
  CHECK(text_of(picture).starts_with("<svg "));
}

TEST_CASE("a measured profile plans, and bench step prints what it predicts beside what was", "[threads]") {
  const SmallExperiment small(small_llama());
  const std::string profile = "'" + (small.folder() / "measured.json").string() + "'";
  const auto [code, output] = shell("longhaul calibrate --ranks 2 --threads 1 --small -o " + profile);
  INFO(output);
  REQUIRE(code == 0);
  CHECK_THAT(output, Contains("2 ranks, 2 on a host") && Contains("products in bfloat16") && Contains("written: "));
  const std::string run = "'" + small.file().string() + "' --ranks 2 training.dtype=float32 device.profile=" + profile;
  const auto [planned, plan] = shell("longhaul plan " + run);
  INFO(plan);
  CHECK(planned == 0);
  CHECK_THAT(plan, Contains("predicted by measured and not measured"));
  const auto [timed, bench] = shell("longhaul bench step " + run + " --steps 2");
  INFO(bench);
  CHECK(timed == 0);
  CHECK_THAT(bench, Contains("predicted         ") && Contains(" seconds a step, by measured: ") &&
                        Contains("GFLOP/s  predicted"));
  const auto [refused, message] = shell("longhaul calibrate --ranks 2");
  CHECK(refused != 0);
  CHECK_THAT(message, Contains("--output"));
}
