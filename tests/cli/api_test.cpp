// The public interface, from a program that includes nothing else of longhaul.
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>

#include "longhaul/longhaul.h"

TEST_CASE("the public interface compiles an experiment without running it") {
  const char* source = std::getenv("LONGHAUL_SOURCE");
  REQUIRE(source);
  const longhaul::RunRequest request{
      std::filesystem::path(source) / "configs/quickstart.yaml", {"training.seq_len=64"}, 2};
  const auto two = longhaul::compile(request);
  CHECK(two.bytes_per_rank > 0);
  CHECK(two.traffic.find("all_to_all") != std::string::npos);
  CHECK(two.memory.find(std::to_string(two.bytes_per_rank)) != std::string::npos);
  const auto longer = longhaul::compile({request.experiment, {"training.seq_len=128"}, 2});
  CHECK(longer.bytes_per_rank > two.bytes_per_rank);
  CHECK_THROWS_AS(longhaul::compile({request.experiment, {"training.seq_length=64"}, 2}), std::runtime_error);
}
