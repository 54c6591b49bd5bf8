// The driver knows every kernel of kernels/cpu, and the small problems run all of them.
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <sstream>

#include "base/environment.h"
#include "base/error.h"
#include "kernels/bench/problem.h"
#include "kernels/cpu/bench/case.h"

namespace {

namespace fs = std::filesystem;
using longhaul::bench::expand;
using longhaul::bench::Shape;

fs::path source() {
  const std::string folder = longhaul::environment("LONGHAUL_SOURCE");
  REQUIRE_FALSE(folder.empty());  // ctest sets it
  return folder;
}

// What kernels/cpu declares: functions that take a ThreadPool, classes that have such a run(), and functions that write
// a result through a pointer. By name, with the header.
std::map<std::string, std::string> declared_kernels() {
  // Kernels of no op of their own, with the reason.
  const std::map<std::string, std::string> parts = {
      {"add_partials", "the second half of the gradients' sums"},
      {"tiled_forward", "attention chooses it"},
      {"tiled_backward", "attention chooses it"},
      {"parallel_for", "no kernel"},
      {"parallel_parts", "no kernel"},
      {"MatmulBackend", "a library's half of Matmul"},
  };
  std::map<std::string, std::string> kernels;
  const std::regex function(R"((?:^|\n)(?:void|double) (\w+)\(([^;{]*)\);)"),
      loops(R"(\nnamespace reference \{[^}]*\})"), type(R"(\nclass (\w+)[^;{]*\{)");
  for (const auto& entry : fs::directory_iterator(source() / "kernels/cpu")) {
    if (entry.path().extension() != ".h") continue;
    std::ifstream in(entry.path());
    std::ostringstream whole;
    whole << in.rdbuf();
    const std::string header = entry.path().filename().string();
    const std::string text = std::regex_replace(whole.str(), loops, "\n");
    for (auto match = std::sregex_iterator(text.begin(), text.end(), function); match != std::sregex_iterator();
         ++match) {
      const std::string name = (*match)[1], parameters = (*match)[2];
      const bool results = std::regex_search(parameters, std::regex(R"((^|, )double\* )"));
      if ((parameters.find("ThreadPool&") != std::string::npos || results) && !parts.contains(name))
        kernels[name] = header;
    }
    for (auto match = std::sregex_iterator(text.begin(), text.end(), type); match != std::sregex_iterator(); ++match) {
      const std::string body = text.substr(
          static_cast<std::size_t>(match->position()),
          text.find("\n};", static_cast<std::size_t>(match->position())) - static_cast<std::size_t>(match->position()));
      if (body.find(" run(ThreadPool&") != std::string::npos && !parts.contains((*match)[1]))
        kernels[(*match)[1]] = header;
    }
  }
  kernels["forward"] = kernels["backward"] = "attention.h";  // members of AttentionImplementation
  kernels["einsum"] = "einsum.h";                            // the reference is all there is
  return kernels;
}

}  // namespace

TEST_CASE("every kernel has an entry in the driver") {
  std::set<std::string> covered, names;
  for (const auto& entry : longhaul::cpu::bench::entries()) {
    CHECK(names.insert(entry.name).second);
    CHECK_FALSE(entry.kernels.empty());
    covered.insert(entry.kernels.begin(), entry.kernels.end());
  }
  const auto kernels = declared_kernels();
  for (const char* known : {"rms_norm", "adamw", "LossHead", "Matmul", "count_valid", "copy_blocks", "reduce_heads"})
    CHECK(kernels.contains(known));  // the search finds what it is for
  for (const auto& [name, header] : kernels) {
    INFO("kernels/cpu/" << header << " declares " << name << "; it needs an entry in kernels/cpu/bench");
    CHECK(covered.contains(name));
  }
  for (const auto& name : covered) {
    INFO("an entry of kernels/cpu/bench claims " << name);
    CHECK(kernels.contains(name));
  }
}

TEST_CASE("the small problems run every kernel of the driver, and every problem file is understood") {
  std::map<std::string, Shape> defaults;
  for (const auto& entry : longhaul::cpu::bench::entries()) defaults[entry.name] = Shape(entry.defaults);
  int files = 0;
  for (const auto& file : fs::directory_iterator(source() / "benchmarks/problems")) {
    std::set<std::string> seen;
    for (const auto& problem : longhaul::bench::read_problems(file.path().string())) {
      INFO(problem.where << ": " << problem.op);
      REQUIRE(defaults.contains(problem.op));
      CHECK_NOTHROW(defaults.at(problem.op).with(problem.over));
      seen.insert(problem.op);
    }
    ++files;
    if (file.path().filename() != "small.txt") continue;
    for (const auto& [name, shape] : defaults) {
      INFO(name << " is not in benchmarks/problems/small.txt");
      CHECK(seen.contains(name));
    }
  }
  CHECK(files >= 4);
}

TEST_CASE("a wrong kernel is found: each of its faults fails the check") {
  namespace bench = longhaul::cpu::bench;
  const Shape shape("count=100 dtype=float32 threads=1");
  const auto measured = [&](auto&& fault) {
    bench::Case c(shape);
    const bench::Tensor &x = c.input(100), &y = c.output(100);
    c.call = [&](bench::Side side) {
      for (std::int64_t i = 0; i < 100; ++i)
        if (side.exact)
          static_cast<double*>(y.wide.data())[i] = 2 * x.wide_at(i);
        else
          fault(static_cast<const float*>(x.narrow.data()), static_cast<float*>(y.narrow.data()), i);
    };
    const auto m = bench::measure(c, {.repeat = 0, .check_only = true, .compare = {}});
    return m.error <= m.bound;
  };
  CHECK(measured([](const float* x, float* y, std::int64_t i) { y[i] = 2 * x[i]; }));
  CHECK_FALSE(
      measured([](const float* x, float* y, std::int64_t i) { y[i] = i == 99 ? y[i] : 2 * x[i]; }));  // unwritten
  CHECK_FALSE(measured([](const float* x, float* y, std::int64_t i) { y[i] = i == 99 ? 0 : 2 * x[i]; }));
  CHECK_FALSE(measured([](const float* x, float* y, std::int64_t i) { y[i] = i == 3 ? INFINITY : 2 * x[i]; }));
  CHECK_FALSE(measured([](const float* x, float* y, std::int64_t i) { y[i] = 2.00001f * x[i]; }));
}

TEST_CASE("problem lines: lists are all combinations, and mistakes are named") {
  const auto shapes = expand("a=1,2 b=x  c=3,4");
  REQUIRE(shapes.size() == 4);
  CHECK(shapes[0].text() == "a=1 b=x c=3");
  CHECK(shapes[1].text() == "a=1 b=x c=4");
  CHECK(shapes[3].text() == "a=2 b=x c=4");
  CHECK(Shape("a=1,b=2").text() == "a=1 b=2");
  CHECK(Shape("dtype=bf16").word("dtype") == "bfloat16");
  for (const char* text : {"a", "=1", "a=", "a=1 a=2", "a=1,2"}) {
    INFO(text);
    CHECK_THROWS_AS(Shape(text), longhaul::Error);
  }
  CHECK_THROWS_AS(Shape("a=-1").number("a"), longhaul::Error);
  CHECK_THROWS_AS(Shape("a=1k").number("a"), longhaul::Error);
  CHECK_THROWS_AS(Shape("a=1").with(Shape("b=1")), longhaul::Error);
}
