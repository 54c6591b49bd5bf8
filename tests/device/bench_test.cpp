// The kernel driver has an entry for every device kernel, and every entry runs the kernels that it says it does; steps
// are timed before a device is waited for op by op.
#include <catch2/catch.hpp>
#include <cstring>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <sstream>

#include "../cli/program.h"
#include "base/environment.h"
#include "base/error.h"
#include "kernels/cuda/bench/bench.h"

using namespace longhaul;

namespace {

// The functions of Api in their order, and which of them launch kernels on a stream.
struct Function {
  std::string name;
  bool launches;
};
std::vector<Function> functions_of_the_table() {
  const std::string folder = environment("LONGHAUL_SOURCE");
  REQUIRE_FALSE(folder.empty());  // ctest sets it
  std::ostringstream whole;
  whole << std::ifstream(folder + "/kernels/cuda/api.h").rdbuf();
  std::string text = whole.str();
  text = std::regex_replace(text.substr(text.find("struct Api {")), std::regex(R"(//[^\n]*)"), "");
  std::vector<Function> functions;
  const std::regex member(R"re((?:int|std::size_t|std::int64_t|const char\*) \(\*(\w+)\)\(([^;]*)\);)re");
  for (auto match = std::sregex_iterator(text.begin(), text.end(), member); match != std::sregex_iterator(); ++match)
    functions.push_back({(*match)[1], std::regex_search((*match)[2].str(), std::regex(R"(Stream stream$)"))});
  return functions;
}

// Of the runtime, not kernels; of NCCL, whose ranks need devices of their own.
const std::regex no_kernel("copy|fill|(stream|event|graph)_.*|nccl_.*");

int refuse() {
  return 1;
}

}  // namespace

TEST_CASE("every device kernel has an entry in the driver") {
  std::set<std::string> covered, names, kernels;
  for (const auto& op : cuda::bench::all_ops()) {
    INFO(op.name);
    CHECK(names.insert(op.name).second);
    CHECK_FALSE(op.kernels.empty());
    CHECK_FALSE(op.device_shapes.empty());
    CHECK_FALSE(op.emulator_shapes.empty());
    const bench::Shape defaults(op.emulator_shapes.front());
    for (const auto* shapes : {&op.device_shapes, &op.emulator_shapes})
      for (const std::string& shape : *shapes) CHECK_NOTHROW(defaults.with(bench::Shape(shape)));
    covered.insert(op.kernels.begin(), op.kernels.end());
  }
  for (const Function& function : functions_of_the_table())
    if (function.launches && !std::regex_match(function.name, no_kernel)) kernels.insert(function.name);
  for (const char* known : {"attention_mask", "add", "copy_entries", "scalar_constant", "peer_barrier", "matmul"})
    CHECK(kernels.contains(known));  // the search finds what it is for
  for (const std::string& name : kernels) {
    INFO("kernels/cuda/api.h declares " << name << "; it needs an entry in kernels/cuda/bench");
    CHECK(covered.contains(name));
  }
  for (const std::string& name : covered) {
    INFO("an entry of kernels/cuda/bench claims " << name);
    CHECK(kernels.contains(name));
  }
}

TEST_CASE("an entry of the driver fails when a kernel that it names does") {
  const cuda::Api& emulator = cuda::require_backend(cuda::Backend::emulator);
  const std::vector<Function> functions = functions_of_the_table();
  // A version, a name, then one pointer a function: what is found by place is what is found by name.
  constexpr std::size_t kFirst = offsetof(cuda::Api, last_error);
  REQUIRE(functions.front().name == "last_error");
  REQUIRE(kFirst + functions.size() * sizeof(void*) == sizeof(cuda::Api));
  const auto without = [&](const std::string& name) {
    cuda::Api api = emulator;
    for (std::size_t i = 0; i < functions.size(); i++) {
      int (*const failing)() = refuse;
      if (functions[i].name == name)
        std::memcpy(reinterpret_cast<char*>(&api) + kFirst + i * sizeof(void*), &failing, sizeof failing);
    }
    return api;
  };
  CHECK(without("rope").rope != emulator.rope);
  for (const auto& op : cuda::bench::all_ops()) {
    const bench::Shape shape(op.emulator_shapes.front());
    for (const std::string& kernel : op.kernels) {
      INFO(op.name << " without " << kernel);
      const cuda::Api api = without(kernel);
      cuda::bench::Context context(api, 1, true);
      CHECK_THROWS_AS(op.run(context, shape), Error);
      context.release_all();
    }
  }
}

TEST_CASE("bench step times a device's steps as a run takes them, and its ops in another step") {
  using namespace testing;
  const Workplace place;
  Program bench(place / "log", longhaul_command({"bench", "step", (place / "experiment.yaml").string(), "--steps", "2",
                                                 "device.type=emulator"}));
  const Ended ended = bench.wait();
  check_end(ended, 0, {" in step 3, unprofiled\n", "of a step after those above, in which the device is waited for"});
  // Losses of the first step, of two that are timed, and of the one whose ops are.
  std::smatch losses, seconds;
  REQUIRE(std::regex_search(ended.output, losses, std::regex(R"(losses +([0-9. ]+)\n)")));
  REQUIRE(std::regex_search(ended.output, seconds, std::regex(R"(seconds a step +([0-9. ]+)\n)")));
  CHECK(count_of(losses[1], " ") == 3);
  CHECK(count_of(seconds[1], " ") == 1);
  CHECK(std::regex_search(ended.output, std::regex(R"(\nadamw +[0-9.]+% +[0-9.]+ +[1-9])")));
}
