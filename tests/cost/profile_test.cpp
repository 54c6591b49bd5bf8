// Machine profiles: those that ship, and what is refused.
#include <catch2/catch.hpp>
#include <filesystem>

#include "base/environment.h"
#include "base/error.h"
#include "base/json.h"
#include "cost/profile.h"
#include "tests/cost/simple_profile.h"

using namespace longhaul;
using Catch::Matchers::Contains;

namespace {

std::string refusal(const std::string& text) {
  try {
    parse_profile(text, "machine.json");
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

std::string with(std::string text, const std::string& part, const std::string& other) {
  const std::size_t at = text.find(part);
  REQUIRE(at != std::string::npos);
  return text.replace(at, part.size(), other);
}

}  // namespace

TEST_CASE("a curve is straight between its points and level beyond them") {
  const Curve curve({{1, 10}, {3, 20}, {4, 0}});
  CHECK(curve.at(0) == 10);
  CHECK(curve.at(1) == 10);
  CHECK(curve.at(2) == 15);
  CHECK(curve.at(3) == 20);
  CHECK(curve.at(3.5) == 10);
  CHECK(curve.at(9) == 0);
}

TEST_CASE("every shipped profile is read, says where its numbers come from, and prints to the same") {
  int profiles = 0;
  for (const auto& entry : std::filesystem::directory_iterator(std::filesystem::path(environment("LONGHAUL_SOURCE")) /
                                                               "configs/clusters")) {
    INFO(entry.path().string());
    const MachineProfile profile = read_profile(entry.path());
    ++profiles;
    CHECK(profile.name == entry.path().stem().string());
    REQUIRE(profile.products.contains(DType::bfloat16));
    REQUIRE(profile.attention.contains(DType::bfloat16));
    CHECK(profile.network.has_value());
    for (const std::string& source :
         {profile.memory_source, profile.execution_source, profile.products.at(DType::bfloat16).source,
          profile.attention.at(DType::bfloat16).source, profile.host.source, profile.network->source})
      CHECK(source.size() > 10);
    // No kernel is faster than the chip, no rank has more memory than its host, no network is faster than a bus.
    const ProductProfile& product = profile.products.at(DType::bfloat16);
    CHECK(profile.attention.at(DType::bfloat16).forward.at(128) < product.peak);
    CHECK(profile.device_memory < profile.host_memory);
    CHECK(profile.network->bandwidth < profile.host.bandwidth);
    const std::string text = profile_text(profile);
    CHECK(profile_text(parse_profile(text, "again")) == text);
  }
  CHECK(profiles == 5);
}

TEST_CASE("what a profile may not say is refused with its line and what is allowed") {
  const std::string good = test::simple_profile_text;
  CHECK(refusal(good) == "");
  CHECK(refusal(with(good, "\"launch_seconds\": 0", "\"launch_second\": 0")) ==
        "machine.json:5: execution.launch_seconds is missing");
  CHECK(refusal(with(good, "\"launch_seconds\": 0", "\"launch_seconds\": 0, \"warmup\": 1")) ==
        "machine.json:5: unknown key execution.warmup; known here: launch_seconds, bytes_per_second, "
        "op_bytes_per_second, source");
  CHECK(refusal(with(good, "\"tile_keys\"", "\"tile_key\": 1, \"tile_keys\"")) ==
        "machine.json:10: unknown key attention.bfloat16.tile_key (did you mean tile_keys?); known here: "
        "forward_flops, backward_flops, tile_keys, source");
  CHECK(refusal(with(good, "\"device_bytes\": 1e9", "\"device_bytes\": 1.5")) ==
        "machine.json:4: memory.device_bytes is 1.5; allowed: an integer from 1 to 2^53");
  CHECK(refusal(with(good, "\"device_bytes\": 1e9", "\"device_bytes\": \"80GB\"")) ==
        "machine.json:4: memory.device_bytes is \"80GB\"; allowed: an integer from 1 to 2^53");
  CHECK(refusal(with(good, "\"peak_flops\": 1e12", "\"peak_flops\": 0")) ==
        "machine.json:7: products.bfloat16.peak_flops is 0; allowed: a number above 0");
  CHECK_THAT(
      refusal(with(good, "[[0, 0.5], [1e6, 1]]", "[[0, 0.5], [1e6, 1.5]]")),
      Contains("products.bfloat16.efficiency is [[0,0.5],[1000000.0,1.5]]; allowed: a list of points [x, y] with "
               "ascending x, x a number of at least 0, y a number above 0 and at most 1"));
  CHECK_THAT(refusal(with(good, "[[0, 0.5], [1e6, 1]]", "[[1e6, 0.5], [0, 1]]")), Contains("ascending x"));
  CHECK_THAT(refusal(with(good, "[[0, 0.5], [1e6, 1]]", "[]")), Contains("a list of points"));
  CHECK_THAT(refusal(with(good, "\"attention\": {\"bfloat16\"", "\"attention\": {\"bfloat\"")),
             Contains("attention.bfloat names no dtype (did you mean bfloat16?); allowed: float64, float32, bfloat16"));
  CHECK_THAT(refusal(with(good, "\"source\": \"assumed\"", "\"source\": \"\"")),
             Contains("allowed: a text that says where the numbers beside it come from"));
  CHECK_THAT(refusal(with(good, ", \"source\": \"assumed\"", "")), Contains("memory.source is missing"));
  CHECK_THAT(refusal(with(good, "\"launch_seconds\"", "\"op_bytes_per_second\": {\"adamv\": 1e9}, \"launch_seconds\"")),
             Contains("execution.op_bytes_per_second.adamv names no op (did you mean adamw?)"));
  CHECK_THAT(refusal(with(good, "\"name\"", "\"name\": \"x\", \"name\"")), Contains("machine.json:2"));
  CHECK_THAT(refusal("[1]"), Contains("the profile must be an object"));
  CHECK_THAT(refusal("{"), Contains("machine.json"));
}

TEST_CASE("a profile without a network, and with rates of single ops, is read and printed") {
  const std::string text = with(test::simple_profile_text, "\"launch_seconds\"",
                                "\"op_bytes_per_second\": {\"adamw\": 2e9}, \"launch_seconds\"");
  const MachineProfile profile = parse_profile(text, "machine.json");
  CHECK(profile.op_bandwidth.at("adamw") == 2e9);
  CHECK(profile.host.reducing == 5e8);
  MachineProfile alone = profile;
  alone.network.reset();
  CHECK_FALSE(parse_profile(profile_text(alone), "again").network.has_value());
}
